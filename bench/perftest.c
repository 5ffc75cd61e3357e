/* SPDX-License-Identifier: Apache-2.0 */
#include "perftest.h"

#include "address.h"
#include "child.h"
#include "clock.h"
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "ib_write_bw"
#define OUTPUT_MAX 16384u
#define TEST_NS_MAX (30 * NS_PER_S) /* an emulated processor takes some to start it */
#define START_NS_MAX (20 * NS_PER_S)
#define LOOK_NS (20 * NS_PER_MS)
#define ARGUMENTS_MAX 24
#define MIB 1048576.0

/* A command line, with room for its numbers. */
struct command {
	char *arguments[ARGUMENTS_MAX + 1];
	int count;
	char numbers[8][16];
	int number_count;
};

static void add(struct command *command, const char *argument)
{
	command->arguments[command->count++] = (char *)argument;
}

static void add_number(struct command *command, const char *option, uint32_t number)
{
	char *text = command->numbers[command->number_count++];

	snprintf(text, sizeof(command->numbers[0]), "%u", number);
	add(command, option);
	add(command, text);
}

/* host: of the server; NULL: the server itself. */
static void make_command(const struct kvx_perftest *test, const struct kvx_port *port,
			 uint16_t tcp_port, const char *host, struct command *command)
{
	*command = (struct command){0};
	add(command, PROGRAM);
	add(command, "-F"); /* whatever governs the processor's frequency */
	add(command, "-c");
	add(command, "RC");
	add(command, "-d");
	add(command, port->device);
	add_number(command, "-i", port->number);
	add_number(command, "-x", port->gid_index);
	add_number(command, "-s", test->message_bytes);
	add_number(command, "-q", test->queue_pairs);
	add_number(command, "-D", 1);
	add_number(command, "-p", tcp_port);
	if (test->mtu)
		add_number(command, "-m", test->mtu);
	if (host)
		add(command, host);
}

static int start(struct command *command, int output, int errors, const char *end, pid_t *child)
{
	if (kvx_child_start(command->arguments, output, errors, child) == 0)
		return 0;
	if (errno == ENOENT)
		return kvx_failure_set("baseline: the %s has no " PROGRAM
				       "; install the package perftest there",
				       end);
	return -1;
}

/* The i-th rail joins the i-th ports of both ends; of the end that has fewer some serve twice. */
static const struct kvx_port *port_of(const struct kvx_ports *ports, uint32_t rail)
{
	return &ports->items[rail % ports->count];
}

static int check(const struct kvx_perftest *test, const struct kvx_ports *ports, const char *end)
{
	if (!ports->count)
		return kvx_failure_set("baseline: the engine of the %s told of no port", end);
	if (!test->rails || test->rails > KVX_BENCH_PORTS_MAX)
		return kvx_failure_set("baseline: %u rails: 1 to %u", test->rails,
				       KVX_BENCH_PORTS_MAX);
	return 0;
}

/* ------------------------------------------------------------------------------------- servers */

/* "  0: 0100007F:1CF3 00000000:0000 0A ...": is it that port, in state LISTEN? */
static bool is_listener(const char *line, uint16_t tcp_port)
{
	char local[64], state[8];

	if (sscanf(line, "%*s %63s %*s %7s", local, state) != 2 || strcmp(state, "0A") != 0)
		return false;
	const char *port = strrchr(local, ':');
	return port && strtoul(port + 1, NULL, 16) == tcp_port;
}

/* Looking by a connection would be taken for the client. */
static bool is_listed(const char *path, uint16_t tcp_port)
{
	FILE *file = fopen(path, "re");
	char line[512];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = is_listener(line, tcp_port);
	if (file)
		fclose(file);
	return found;
}

static int wait_until_listening(pid_t *server, const struct kvx_port *port, uint16_t tcp_port,
				int64_t deadline_ns)
{
	while (!is_listed("/proc/net/tcp", tcp_port) && !is_listed("/proc/net/tcp6", tcp_port)) {
		if (waitpid(*server, NULL, WNOHANG) == *server) {
			*server = 0;
			return kvx_failure_set("baseline: the receiver's " PROGRAM
					       " ended at once; try there: " PROGRAM
					       " -d %s -i %u -x %u",
					       port->device, port->number, port->gid_index);
		}
		if (clock_now_ns() > deadline_ns)
			return kvx_failure_set("baseline: the receiver's " PROGRAM
					       " over %s does not listen",
					       port->device);
		clock_sleep_until(clock_now_ns() + LOOK_NS);
	}
	return 0;
}

int kvx_perftest_serve(const struct kvx_perftest *test, const struct kvx_ports *ports,
		       struct kvx_perftest_servers *servers)
{
	int64_t deadline_ns = clock_now_ns() + START_NS_MAX;

	if (check(test, ports, "receiver"))
		return -1;
	for (uint32_t i = 0; i < test->rails; i++) {
		struct command command;
		if (kvx_address_free_port(&servers->tcp_ports[i]))
			return -1;
		make_command(test, port_of(ports, i), servers->tcp_ports[i], NULL, &command);
		if (start(&command, KVX_CHILD_SILENT, KVX_CHILD_SILENT, "receiver",
			  &servers->pids[i]))
			return -1;
		servers->count++;
	}
	for (uint32_t i = 0; i < test->rails; i++)
		if (wait_until_listening(&servers->pids[i], port_of(ports, i),
					 servers->tcp_ports[i], deadline_ns))
			return -1;
	return 0;
}

void kvx_perftest_stop(struct kvx_perftest_servers *servers)
{
	for (uint32_t i = 0; i < servers->count; i++)
		kvx_child_stop(servers->pids[i]);
	*servers = (struct kvx_perftest_servers){0};
}

/* ------------------------------------------------------------------------------------- clients */

struct client {
	pid_t pid;
	int output, errors;
};

static int start_client(struct command *command, struct client *client)
{
	int output[2], errors[2];

	if (pipe2(output, O_CLOEXEC))
		return kvx_failure_set("baseline: no pipe: %s", strerror(errno));
	if (pipe2(errors, O_CLOEXEC)) {
		close(output[0]);
		close(output[1]);
		return kvx_failure_set("baseline: no pipe: %s", strerror(errno));
	}
	int error = start(command, output[1], errors[1], "sender", &client->pid);
	close(output[1]);
	close(errors[1]);
	client->output = output[0];
	client->errors = errors[0];
	if (error) {
		close(output[0]);
		close(errors[0]);
	}
	return error;
}

/* A row of the table: bytes, iterations, peak, average in MiB/s, messages. 0: it is none. */
static double average_of(char *line, uint32_t message_bytes)
{
	char *end;

	if (strtoull(line, &end, 10) != message_bytes || end == line)
		return 0;
	strtoull(end, &end, 10);
	strtod(end, &end);
	return strtod(end, NULL);
}

static bool parse_output(char *output, uint32_t message_bytes, double *bytes_per_s)
{
	char *rest = output;
	char *line;

	while ((line = strsep(&rest, "\n"))) {
		double average = average_of(line, message_bytes);
		if (average > 0) {
			*bytes_per_s = average * MIB;
			return true;
		}
	}
	return false;
}

static int explain(char *said, bool late)
{
	char *line = said + strspn(said, " \n");

	if (late)
		return kvx_failure_set("baseline: " PROGRAM " did not end within %lld s",
				       (long long)(TEST_NS_MAX / NS_PER_S));
	/* What went wrong, and its code, are two lines. */
	for (char *end = strchr(line, '\n'); end; end = strchr(end, '\n'))
		*end = end[1] ? ' ' : 0;
	return kvx_failure_set("baseline: " PROGRAM ": %.300s", *line ? line : "no result");
}

/* Its result is added; with discard it is ended, and its result is of no use. */
static int finish_client(struct client *client, uint32_t message_bytes, int64_t deadline_ns,
			 bool discard, double *sum)
{
	char output[OUTPUT_MAX + 1], said[OUTPUT_MAX + 1];
	double bytes_per_s = 0;

	deadline_ns = discard ? 0 : deadline_ns;
	output[kvx_child_read(client->pid, client->output, deadline_ns, output, OUTPUT_MAX)] = 0;
	said[kvx_child_read(client->pid, client->errors, deadline_ns, said, OUTPUT_MAX)] = 0;
	waitpid(client->pid, NULL, 0);
	close(client->output);
	close(client->errors);
	if (discard)
		return -1;
	if (!parse_output(output, message_bytes, &bytes_per_s))
		return explain(said, clock_now_ns() >= deadline_ns);
	*sum += bytes_per_s;
	return 0;
}

int kvx_perftest_measure(const struct kvx_perftest *test, const struct kvx_ports *ports,
			 const char *host, const uint16_t *tcp_ports, double *bytes_per_s)
{
	int64_t deadline_ns = clock_now_ns() + TEST_NS_MAX;
	struct client clients[KVX_BENCH_PORTS_MAX] = {0};
	struct command command;
	uint32_t started = 0;
	double sum = 0;

	if (check(test, ports, "sender"))
		return -1;
	int error = 0;
	for (; started < test->rails && !error; started += !error) {
		make_command(test, port_of(ports, started), tcp_ports[started], host, &command);
		error = start_client(&command, &clients[started]);
	}
	for (uint32_t i = 0; i < started; i++)
		error = finish_client(&clients[i], test->message_bytes, deadline_ns, error != 0,
				      &sum);
	if (!error)
		*bytes_per_s = sum;
	return error;
}
