/* SPDX-License-Identifier: Apache-2.0 */
/* What the same machine does at the same moment without kvxfer. */
#include "drive.h"

#include "address.h"
#include "iperf.h"
#include "perftest.h"

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

/* Where the receiver's programs listen. */
static void find_host(const struct kvx_drive *drive, char *host, size_t size)
{
	if (!drive->settings->peer || kvx_address_host(drive->settings->peer, host, size))
		snprintf(host, size, "127.0.0.1");
}

static int measure_iperf(struct kvx_drive *drive, double *rate)
{
	char host[256];
	double bytes_per_s = 0;
	json_t *told = kvx_session_call(drive->session, "iperf");

	if (!told)
		return -1;
	const char *text = json_string_value(json_object_get(told, "text"));
	uint16_t port = (uint16_t)field(told, "port");
	int error = text && *text ? kvx_failure_set("%s", text) : 0;
	json_decref(told);
	find_host(drive, host, sizeof(host));
	if (!error && kvx_iperf_measure(host, port, &bytes_per_s) == 0)
		*rate = bytes_per_s * 1e-9;
	else
		/* Not a failure of the run: the baseline stays unmeasured. */
		fprintf(stderr, "%s\n", kvx_failure_text());
	return 0;
}

static int take_tcp_ports(json_t *told, uint32_t rails, uint16_t *tcp_ports)
{
	const char *text = json_string_value(json_object_get(told, "text"));
	json_t *array = json_object_get(told, "tcp_ports");

	if (text && *text)
		return kvx_failure_set("%s", text);
	if (json_array_size(array) != rails)
		return kvx_failure_set("baseline: an answer that was not asked for");
	for (uint32_t i = 0; i < rails; i++)
		tcp_ports[i] = (uint16_t)json_integer_value(json_array_get(array, i));
	return 0;
}

static int measure_perftest(struct kvx_drive *drive, double *rate)
{
	const struct kvx_endpoint *endpoint = &drive->session->endpoint;
	const struct kvx_perftest test = {
		.rails = drive->results.rails,
		.message_bytes = endpoint->setup.block_bytes,
		.queue_pairs = endpoint->verbs_qps,
		.mtu = endpoint->verbs_mtu,
	};
	uint16_t tcp_ports[KVX_BENCH_PORTS_MAX];
	char host[256];
	double bytes_per_s = 0;

	if (kvx_session_ask(drive->session,
			    json_pack("{ss, sI, sI, sI, sI}", "do", "perftest", "rails",
				      (json_int_t)test.rails, "bytes",
				      (json_int_t)test.message_bytes, "queue_pairs",
				      (json_int_t)test.queue_pairs, "mtu", (json_int_t)test.mtu)))
		return -1;
	json_t *told = kvx_session_reply(drive->session, "perftest");
	if (!told)
		return -1;
	int error = take_tcp_ports(told, test.rails, tcp_ports);
	json_decref(told);
	find_host(drive, host, sizeof(host));
	if (!error &&
	    kvx_perftest_measure(&test, &endpoint->ports, host, tcp_ports, &bytes_per_s) == 0)
		*rate = bytes_per_s * 1e-9;
	else
		/* As above. */
		fprintf(stderr, "%s\n", kvx_failure_text());
	return 0;
}

static const struct baseline {
	const char *transport; /* NULL: any other */
	const char *name;
	int (*measure)(struct kvx_drive *drive, double *rate);
} baselines[] = {
	{"tcp", "iperf3", measure_iperf},
	{"verbs", "ib_write_bw", measure_perftest},
	{NULL, "memcpy", measure_copies},
};

int kvx_drive_baseline(struct kvx_drive *drive, double goodput)
{
	struct kvx_results *results = &drive->results;
	const struct baseline *baseline = baselines;
	double rate = 0;

	kvx_progress_show(&drive->progress, "baseline");
	while (baseline->transport && strcmp(results->transport, baseline->transport) != 0)
		baseline++;
	if (baseline->measure(drive, &rate))
		return -1;
	if (rate <= 0 || goodput <= 0)
		return 0;
	results->baseline_name = baseline->name;
	kvx_samples_add(&results->baseline_gbytes_per_s, rate);
	kvx_samples_add(&results->baseline_ratios, goodput / rate);
	return 0;
}
