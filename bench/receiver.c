/* SPDX-License-Identifier: Apache-2.0 */
#include "receiver.h"

#include "channel.h"
#include "child.h"
#include "clock.h"
#include "copies.h"
#include "failure.h"
#include "iperf.h"
#include "ledger.h"
#include "machine.h"
#include "perftest.h"
#include "waiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELLO_MS 5000           /* whoever connects has to say what it is */
#define SILENCE_MS (300 * 1000) /* while requests run, the sender says that it is alive */
#define MEMORY_SHARE 0.8        /* of what is available: more is refused */

struct receiver {
	const struct kvx_receiver_policy *policy;
	struct kvx_channel channel;
	bool greeted;
	bool said_goodbye;
	bool open; /* all that follows is there */
	struct kvx_endpoint endpoint;
	struct kvx_ledger ledger;
	struct kvx_copies copies;
	struct kvx_waiter *waiters;
	uint32_t waiter_count;
	pid_t iperf;
	struct kvx_perftest_servers perftest;
};

static int set_option(json_t *options, const char *name, const char *value)
{
	return json_object_set_new(options, name, json_string(value))
		       ? kvx_failure_set("setup: option %s: out of memory or not text", name)
		       : 0;
}

/* What the other end wants of the engine, with this end's decisions over it. */
static int apply_policy(json_t *options, const struct kvx_receiver_policy *policy)
{
	char listen[300];
	int error = 0;

	for (uint32_t i = 0; policy->options && i < policy->options->count && !error; i++) {
		char name[64];
		const char *value;
		error = kvx_engine_option_split(policy->options->texts[i], name, sizeof(name),
						&value);
		error = error ? error : set_option(options, name, value);
	}
	if (error || policy->trusted)
		return error;
	snprintf(listen, sizeof(listen), strchr(policy->listen_host, ':') ? "[%s]:0" : "%s:0",
		 policy->listen_host);
	error = set_option(options, "listen", listen);
	error = error ? error : set_option(options, "advertise", policy->advertise_host);
	return error ? error
		     : set_option(options, "unauthenticated_network",
				  policy->unauthenticated_network ? "on" : "off");
}

static int check_allowed(const struct receiver *receiver, const struct kvx_setup *setup)
{
	uint64_t available = kvx_machine_available_bytes();
	uint64_t needed = kvx_setup_pool_bytes(setup) * (setup->copy_baseline ? 2 : 1);

	if (!receiver->policy->trusted &&
	    kvx_payload_kind(json_string_value(setup->payload)) == KVX_PAYLOAD_FILE)
		return kvx_failure_set("setup: this end reads no files for others");
	if (available && (double)needed > (double)available * MEMORY_SHARE)
		return kvx_failure_set("setup: pools of %llu MiB: only %llu MiB are available; use "
				       "a smaller --pool-bytes or request",
				       (unsigned long long)(needed >> 20),
				       (unsigned long long)(available >> 20));
	return 0;
}

static void tear_down(struct receiver *receiver)
{
	for (uint32_t i = 0; i < receiver->waiter_count; i++)
		kvx_waiter_stop(&receiver->waiters[i]);
	free(receiver->waiters);
	receiver->waiters = NULL;
	receiver->waiter_count = 0;
	kvx_copies_close(&receiver->copies, &receiver->endpoint);
	kvx_ledger_finish(&receiver->ledger);
	kvx_endpoint_close(&receiver->endpoint);
	receiver->open = false;
}

static int start_waiters(struct receiver *receiver)
{
	uint32_t count = receiver->endpoint.setup.places;

	receiver->waiters = calloc(count, sizeof(*receiver->waiters));
	if (!receiver->waiters)
		return kvx_failure_set("receiver: out of memory");
	for (; receiver->waiter_count < count; receiver->waiter_count++)
		if (kvx_waiter_start(&receiver->waiters[receiver->waiter_count],
				     &receiver->endpoint, &receiver->ledger, &receiver->channel,
				     receiver->waiter_count))
			return -1;
	return 0;
}

static int build(struct receiver *receiver, struct kvx_setup *setup)
{
	if (kvx_endpoint_open(&receiver->endpoint, setup, KVX_END_RECEIVER,
			      receiver->policy->verbose))
		return -1;
	if (kvx_ledger_init(&receiver->ledger, receiver->endpoint.setup.slots) ||
	    (receiver->endpoint.setup.copy_baseline &&
	     kvx_copies_open(&receiver->copies, &receiver->endpoint)) ||
	    start_waiters(receiver)) {
		tear_down(receiver);
		return -1;
	}
	receiver->open = true;
	return 0;
}

static int do_hello(struct receiver *receiver, json_t *message)
{
	const char *version = json_string_value(json_object_get(message, "version"));
	char machine[256];

	if (!version || strcmp(version, KVX_VERSION) != 0)
		return kvx_failure_set("hello: this is kvxfer-bench %s; use the same at both ends",
				       KVX_VERSION);
	receiver->greeted = true;
	kvx_machine_describe(machine, sizeof(machine));
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, ss, ss, sI}", "event", "hello", "version",
					  KVX_VERSION, "machine", machine, "available_bytes",
					  (json_int_t)kvx_machine_available_bytes()));
}

static int do_ping(struct receiver *receiver, json_t *message)
{
	(void)message;
	return kvx_channel_send(&receiver->channel, json_pack("{ss, sI}", "event", "pong", "now_ns",
							      (json_int_t)clock_now_ns()));
}

static int do_setup(struct receiver *receiver, json_t *message)
{
	struct kvx_setup setup;

	if (receiver->open)
		tear_down(receiver);
	if (kvx_setup_decode(message, &setup))
		return -1;
	int error = check_allowed(receiver, &setup) ||
		    apply_policy(setup.options, receiver->policy) || build(receiver, &setup);
	kvx_setup_finish(&setup);
	if (error)
		return -1;
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, ss, so}", "event", "setup", "address",
					  kvx_engine_address(receiver->endpoint.engine), "ports",
					  kvx_ports_texts(&receiver->endpoint.ports)));
}

static struct kvx_waiter *find_waiter(struct receiver *receiver, json_t *message)
{
	json_t *place = json_object_get(message, "place");
	json_int_t index = json_integer_value(place);

	if (!json_is_integer(place) || index < 0 || index >= (json_int_t)receiver->waiter_count)
		return NULL;
	return &receiver->waiters[index];
}

static int do_grant(struct receiver *receiver, json_t *message)
{
	const struct kvx_setup *setup = &receiver->endpoint.setup;
	struct kvx_waiter *waiter = find_waiter(receiver, message);
	json_int_t request, slot, blocks;
	int verify, timeline;

	if (!waiter ||
	    json_unpack(message, "{sI, sI, sI, sb, sb}", "request", &request, "slot", &slot,
			"blocks", &blocks, "verify", &verify, "timeline", &timeline) ||
	    slot < 0 || slot >= (json_int_t)setup->slots || blocks < 1 ||
	    blocks > (json_int_t)setup->request_blocks)
		return kvx_failure_set("grant: a field is missing or out of range");
	const struct kvx_wait wait = {(uint32_t)slot, (uint64_t)request, (uint32_t)blocks, verify,
				      timeline};
	if (kvx_waiter_grant(waiter, &wait) == 0)
		return 0;
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, si, sI, si, ss}", "event", "ended", "place",
					  (int)waiter->place, "request", request, "error",
					  KVX_E_INVALID, "text", kvx_failure_text()));
}

static int do_cancel(struct receiver *receiver, json_t *message)
{
	struct kvx_waiter *waiter = find_waiter(receiver, message);

	if (!waiter)
		return kvx_failure_set("cancel: no such place");
	kvx_waiter_cancel(waiter);
	return 0;
}

static int do_verify(struct receiver *receiver, json_t *message)
{
	struct kvx_verdict verdict = {0};

	(void)message;
	kvx_ledger_verify(&receiver->ledger, &receiver->endpoint, &verdict);
	return kvx_channel_send(
		&receiver->channel,
		json_pack("{ss, sI, sI, sI, sI, sI, sI, sI, si, si}", "event", "verified", "bytes",
			  (json_int_t)verdict.bytes, "wrong_bytes", (json_int_t)verdict.wrong_bytes,
			  "request", (json_int_t)verdict.place.request, "layer",
			  (json_int_t)verdict.place.layer, "plane", (json_int_t)verdict.place.plane,
			  "block", (json_int_t)verdict.place.block, "offset",
			  (json_int_t)verdict.offset, "expected", verdict.expected, "found",
			  verdict.found));
}

static int do_stats(struct receiver *receiver, json_t *message)
{
	struct kvx_stats stats;

	(void)message;
	kvx_engine_stats(receiver->endpoint.engine, &stats);
	uint64_t units = stats.units_received + stats.units_duplicate + stats.units_late;
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, sI, sI, sf}", "event", "stats", "progress_ns",
					  (json_int_t)stats.progress_ns, "units", (json_int_t)units,
					  "cpu_seconds", kvx_machine_cpu_seconds()));
}

static int do_copies(struct receiver *receiver, json_t *message)
{
	uint64_t bytes;
	int64_t elapsed_ns;

	(void)message;
	if (!receiver->copies.source)
		return kvx_failure_set("copies: not in the setup");
	kvx_copies_run(&receiver->copies, &receiver->endpoint, &bytes, &elapsed_ns);
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, sI, sI}", "event", "copies", "bytes",
					  (json_int_t)bytes, "elapsed_ns", (json_int_t)elapsed_ns));
}

static int do_iperf(struct receiver *receiver, json_t *message)
{
	const char *host = receiver->policy->advertise_host;
	uint16_t port = 0;

	(void)message;
	kvx_child_stop(receiver->iperf);
	receiver->iperf = 0;
	int error = kvx_iperf_serve(host ? host : "127.0.0.1", &receiver->iperf, &port);
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, si, ss}", "event", "iperf", "port", (int)port,
					  "text", error ? kvx_failure_text() : ""));
}

/* Whatever the test asks for, its programs are few, and gone before the next. */
static int do_perftest(struct receiver *receiver, json_t *message)
{
	struct kvx_perftest_servers *servers = &receiver->perftest;
	json_int_t rails, bytes, queue_pairs, mtu;
	json_t *tcp_ports = json_array();

	if (json_unpack(message, "{sI, sI, sI, sI}", "rails", &rails, "bytes", &bytes,
			"queue_pairs", &queue_pairs, "mtu", &mtu) ||
	    rails < 1 || rails > KVX_BENCH_PORTS_MAX || bytes < 1 || bytes > 1 << 30 ||
	    queue_pairs < 1 || queue_pairs > 16 || mtu < 0 || mtu > 4096) {
		json_decref(tcp_ports);
		return kvx_failure_set("perftest: a field is missing or out of range");
	}
	const struct kvx_perftest test = {(uint32_t)rails, (uint32_t)bytes, (uint32_t)queue_pairs,
					  (uint32_t)mtu};
	kvx_perftest_stop(servers);
	int error = kvx_perftest_serve(&test, &receiver->endpoint.ports, servers);
	for (uint32_t i = 0; i < servers->count; i++)
		json_array_append_new(tcp_ports, json_integer(servers->tcp_ports[i]));
	return kvx_channel_send(&receiver->channel,
				json_pack("{ss, so, ss}", "event", "perftest", "tcp_ports",
					  tcp_ports, "text", error ? kvx_failure_text() : ""));
}

static int do_alive(struct receiver *receiver, json_t *message)
{
	(void)receiver;
	(void)message;
	return 0;
}

static int do_bye(struct receiver *receiver, json_t *message)
{
	(void)message;
	receiver->said_goodbye = true;
	return 0;
}

static const struct command {
	const char *name;
	bool needs_setup;
	int (*run)(struct receiver *receiver, json_t *message);
} commands[] = {
	{"hello", false, do_hello},      {"ping", false, do_ping},    {"setup", false, do_setup},
	{"grant", true, do_grant},       {"cancel", true, do_cancel}, {"verify", true, do_verify},
	{"stats", true, do_stats},       {"copies", true, do_copies}, {"iperf", false, do_iperf},
	{"perftest", true, do_perftest}, {"alive", false, do_alive},  {"bye", false, do_bye},
};

static int execute(struct receiver *receiver, json_t *message)
{
	const char *name = json_string_value(json_object_get(message, "do"));

	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(name, commands[i].name) != 0)
			continue;
		if (!receiver->greeted && commands[i].run != do_hello)
			return kvx_failure_set("%s before hello", name);
		if (commands[i].needs_setup && !receiver->open)
			return kvx_failure_set("%s before setup", name);
		return commands[i].run(receiver, message);
	}
	return kvx_failure_set("\"%.32s\" is not a command", name ? name : "");
}

static int serve_commands(struct receiver *receiver)
{
	while (!receiver->said_goodbye) {
		json_t *message = kvx_channel_receive(
			&receiver->channel, receiver->greeted ? SILENCE_MS : HELLO_MS, NULL);
		if (!message)
			return -1;
		int error = execute(receiver, message);
		json_decref(message);
		if (!error)
			continue;
		kvx_channel_send(&receiver->channel, json_pack("{ss, ss}", "event", "error", "text",
							       kvx_failure_text()));
		return -1;
	}
	return 0;
}

int kvx_receiver_serve(int fd, const struct kvx_receiver_policy *policy)
{
	struct receiver receiver = {.policy = policy};

	if (kvx_channel_init(&receiver.channel, fd))
		return -1;
	int error = serve_commands(&receiver);
	if (receiver.open)
		tear_down(&receiver);
	kvx_child_stop(receiver.iperf);
	kvx_perftest_stop(&receiver.perftest);
	kvx_channel_finish(&receiver.channel);
	return error;
}
