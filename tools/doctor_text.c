/* SPDX-License-Identifier: Apache-2.0 */
/* Findings as lines: severity, area, what was found -> what to do. */
#include "doctor.h"

#define SEVERITIES 4u

int doctor_write_text(const struct doctor *doctor, FILE *file)
{
	uint32_t counts[SEVERITIES] = {0};

	for (uint32_t i = 0; i < doctor->finding_count; i++) {
		const struct doctor_finding *finding = &doctor->findings[i];
		counts[finding->severity]++;
		fprintf(file, "%-8s %-17s %s%s%s\n", kvx_severity_name(finding->severity),
			finding->area, finding->found, finding->action[0] ? " -> " : "",
			finding->action);
	}
	fprintf(file, "%u errors, %u warnings, %u notes, %u ok\n", counts[KVX_SEVERITY_ERROR],
		counts[KVX_SEVERITY_WARNING], counts[KVX_SEVERITY_NOTE], counts[KVX_SEVERITY_OK]);
	return ferror(file) != 0;
}
