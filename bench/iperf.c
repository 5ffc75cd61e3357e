/* SPDX-License-Identifier: Apache-2.0 */
#include "iperf.h"

#include "child.h"
#include "clock.h"
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX 65536u
#define TEST_NS_MAX (10 * NS_PER_S)
#define START_TRIES 20 /* a server needs a moment before it listens */

static int find_free_port(uint16_t *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    getsockname(fd, (struct sockaddr *)&address, &length)) {
		kvx_failure_set("baseline: no free port: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	*port = ntohs(address.sin_port);
	return 0;
}

int kvx_iperf_serve(const char *host, pid_t *server, uint16_t *port)
{
	char text[8];

	if (find_free_port(port))
		return -1;
	snprintf(text, sizeof(text), "%u", *port);
	return kvx_child_start(
		(char *const[]){"iperf3", "-s", "-1", "-B", (char *)host, "-p", text, NULL},
		KVX_CHILD_SILENT, server);
}

/* What the child writes until it ends, or until it has taken too long. */
static size_t read_output(int fd, char *output, pid_t child)
{
	int64_t deadline_ns = clock_now_ns() + TEST_NS_MAX;
	size_t used = 0;

	while (used < OUTPUT_MAX) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		int64_t left_ms = (deadline_ns - clock_now_ns()) / NS_PER_MS;
		if (left_ms <= 0 || poll(&ready, 1, (int)left_ms) == 0) {
			kill(child, SIGTERM);
			break;
		}
		ssize_t got = read(fd, output + used, OUTPUT_MAX - used);
		if (got <= 0 && errno != EINTR)
			break;
		used += got > 0 ? (size_t)got : 0;
	}
	return used;
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
	int error = kvx_child_start(arguments, ends[1], &child);
	close(ends[1]);
	if (!error) {
		size_t size = read_output(ends[0], output, child);
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
