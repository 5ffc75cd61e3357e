/* SPDX-License-Identifier: Apache-2.0 */
/* What the same machine does at the same moment without kvxfer. */
#include "drive.h"

#include "address.h"
#include "iperf.h"

#include <string.h>

static uint64_t field(json_t *message, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(message, name));
}

/* Bytes per ns. */
static int measure_copies(struct kvx_drive *drive, double *rate)
{
	json_t *told = kvx_session_call(drive->session, "copies");

	if (!told)
		return -1;
	*rate = (double)field(told, "bytes") / (double)field(told, "elapsed_ns");
	json_decref(told);
	return 0;
}

static int measure_iperf(struct kvx_drive *drive, double *rate)
{
	char host[256] = "127.0.0.1";
	double bytes_per_s = 0;
	json_t *told = kvx_session_call(drive->session, "iperf");

	if (!told)
		return -1;
	const char *text = json_string_value(json_object_get(told, "text"));
	uint16_t port = (uint16_t)field(told, "port");
	int error = text && *text ? kvx_failure_set("%s", text) : 0;
	json_decref(told);
	if (drive->settings->peer)
		kvx_address_host(drive->settings->peer, host, sizeof(host));
	if (!error && kvx_iperf_measure(host, port, &bytes_per_s) == 0)
		*rate = bytes_per_s * 1e-9;
	else
		/* Not a failure of the run: the baseline stays unmeasured. */
		fprintf(stderr, "%s\n", kvx_failure_text());
	return 0;
}

int kvx_drive_baseline(struct kvx_drive *drive, double goodput)
{
	struct kvx_results *results = &drive->results;
	bool is_tcp = strcmp(results->transport, "tcp") == 0;
	double rate = 0;

	kvx_progress_show(&drive->progress, "baseline");
	if (is_tcp ? measure_iperf(drive, &rate) : measure_copies(drive, &rate))
		return -1;
	if (rate <= 0 || goodput <= 0)
		return 0;
	results->baseline_name = is_tcp ? "iperf3" : "memcpy";
	kvx_samples_add(&results->baseline_gbytes_per_s, rate);
	kvx_samples_add(&results->baseline_ratios, goodput / rate);
	return 0;
}
