/* SPDX-License-Identifier: Apache-2.0 */
/* Findings as JSON. docs/doctor.md lists the fields. */
#include "doctor.h"

#define DIGITS 6

/* A path need not be UTF-8, which JSON is. */
static json_t *text_json(const char *text)
{
	json_t *json = json_string(text);

	return json ? json : json_string("?");
}

static json_t *finding_json(const struct doctor_finding *finding)
{
	return json_pack("{s:s, s:s, s:o, s:s}", "severity", kvx_severity_name(finding->severity),
			 "area", finding->area, "found", text_json(finding->found), "action",
			 finding->action);
}

static json_t *rail_json(const struct doctor_rail *rail)
{
	json_t *rate = rail->gbytes_per_s > 0 ? json_real(rail->gbytes_per_s) : json_null();

	return json_pack("{s:s, s:o}", "rail", rail->name, "gbytes_per_s", rate);
}

static json_t *peer_json(const struct doctor *doctor)
{
	if (!doctor->peer)
		return json_null();
	json_t *rails = json_array();
	for (uint32_t i = 0; i < doctor->rail_count; i++)
		json_array_append_new(rails, rail_json(&doctor->rails[i]));
	return json_pack("{s:o, s:o, s:o}", "address", text_json(doctor->peer), "path_mtu",
			 doctor->path_mtu ? json_integer(doctor->path_mtu) : json_null(), "rails",
			 rails);
}

int doctor_write_json(const struct doctor *doctor, FILE *file)
{
	json_t *findings = json_array();

	for (uint32_t i = 0; i < doctor->finding_count; i++)
		json_array_append_new(findings, finding_json(&doctor->findings[i]));
	json_t *all = json_pack("{s:s, s:s, s:o, s:o}", "version", kvx_version(), "severity",
				kvx_severity_name(doctor_worst(doctor)), "findings", findings,
				"peer", peer_json(doctor));
	if (!all)
		return 1;
	int error = json_dumpf(all, file, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)) ||
		    fputc('\n', file) == EOF;
	json_decref(all);
	return error;
}
