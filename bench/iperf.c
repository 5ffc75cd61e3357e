/* SPDX-License-Identifier: Apache-2.0 */
#include "iperf.h"

#include "address.h"
#include "child.h"
#include "clock.h"
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX 65536u
#define TEST_NS_MAX (10 * NS_PER_S)
#define START_TRIES 20 /* a server needs a moment before it listens */

int kvx_iperf_serve(const char *host, pid_t *server, uint16_t *port)
{
	char text[8];

	if (kvx_address_free_port(port))
		return -1;
	snprintf(text, sizeof(text), "%u", *port);
	return kvx_child_start(
		(char *const[]){"iperf3", "-s", "-1", "-B", (char *)host, "-p", text, NULL},
		KVX_CHILD_SILENT, KVX_CHILD_SILENT, server);
}

static int parse_output(const char *output, size_t size, double *bytes_per_s)
{
	json_t *report = json_loadb(output, size, 0, NULL);
	const char *error = json_string_value(json_object_get(report, "error"));
	json_t *sum = json_object_get(json_object_get(report, "end"), "sum_received");
	double bits = json_number_value(json_object_get(sum, "bits_per_second"));

	if (error)
		kvx_failure_set("baseline: iperf3: %s", error);
	else if (!(bits > 0))
		kvx_failure_set("baseline: iperf3 gave no result");
	else
		*bytes_per_s = bits / 8;
	json_decref(report);
	return bits > 0 && !error ? 0 : -1;
}

static int measure_once(const char *host, const char *port, double *bytes_per_s)
{
	static char output[OUTPUT_MAX];
	char *const arguments[] = {"iperf3", "-c", (char *)host, "-p", (char *)port,
				   "-t",     "1",  "-J",         NULL};
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC))
		return kvx_failure_set("baseline: no pipe: %s", strerror(errno));
	int error = kvx_child_start(arguments, ends[1], KVX_CHILD_SILENT, &child);
	close(ends[1]);
	if (!error) {
		size_t size = kvx_child_read(child, ends[0], clock_now_ns() + TEST_NS_MAX, output,
					     OUTPUT_MAX);
		waitpid(child, NULL, 0);
		error = parse_output(output, size, bytes_per_s);
	}
	close(ends[0]);
	return error;
}

int kvx_iperf_measure(const char *host, uint16_t port, double *bytes_per_s)
{
	char text[8];
	int error = -1;

	snprintf(text, sizeof(text), "%u", port);
	for (int i = 0; i < START_TRIES && error; i++) {
		clock_sleep_until(clock_now_ns() + 50 * NS_PER_MS);
		error = measure_once(host, text, bytes_per_s);
		if (error && !strstr(kvx_failure_text(), "refused"))
			break;
	}
	return error;
}
