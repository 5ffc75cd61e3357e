/* SPDX-License-Identifier: Apache-2.0 */
#include "devices.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_DEADLINE_NS (5 * KVX_NS_PER_S)

struct kvx_options *options;
struct kvx_poller poller;
struct kvx_transport transport;
struct kvx_transport_context context;
char logged[LOGGED_MAX + 1];

struct told told;
struct kvx_verbs_pair *known_pair;

void kvx_verbs_port_changed(struct kvx_verbs_port *port, bool up, const char *text)
{
	told.port = port;
	told.up = up;
	told.port_changes++;
	snprintf(told.text, sizeof(told.text), "%s", text);
}

void kvx_verbs_device_died(struct kvx_verbs_device *device, const char *text)
{
	told.device = device;
	told.deaths++;
	snprintf(told.text, sizeof(told.text), "%s", text);
}

void kvx_verbs_pair_failed(struct kvx_verbs_pair *pair, const char *text)
{
	told.pair = pair;
	told.pair_failures++;
	snprintf(told.text, sizeof(told.text), "%s", text);
}

struct kvx_verbs_pair *kvx_verbs_pair_by_number(const struct kvx_verbs_device *device, uint32_t qpn)
{
	told.device = (struct kvx_verbs_device *)device;
	told.qpn = qpn;
	return known_pair;
}

int kvx_verbs_poll(struct kvx_verbs_device *device)
{
	told.device = device;
	told.polls++;
	return 0;
}

static void take_line(void *unused, enum kvx_log_level level, const char *line)
{
	size_t length = strlen(logged);

	(void)unused;
	(void)level;
	snprintf(logged + length, sizeof(logged) - length, "%s\n", line);
}

void devices_set_up(void)
{
	cr_assert_eq(kvx_options_new(&options), 0);
	cr_assert_eq(kvx_poller_init(&poller), 0);
	options->log.function = take_line;
	context = (struct kvx_transport_context){
		.poller = &poller, .log = &options->log, .options = options, .index = 1};
	transport.context = &context;
}

/* Whatever a test did, nothing of it is left. */
void devices_tear_down(void)
{
	struct fake_verbs_counters counters;

	kvx_verbs_devices_close(&transport);
	fake_verbs_counters(NULL, &counters);
	cr_assert_eq(counters.contexts + counters.pds + counters.mrs + counters.channels +
			     counters.cqs + counters.srqs + counters.qps,
		     0);
	cr_assert(!strstr(logged, "cannot destroy"), "%s", logged);
	kvx_poller_finish(&poller);
	kvx_options_free(options);
}

int devices_open(const char *devices)
{
	setenv("FAKE_VERBS_DEVICES", devices, true);
	return kvx_verbs_devices_open(&transport);
}

void devices_option(const char *name, const char *value)
{
	cr_assert_eq(kvx_options_set(options, name, value), 0, "%s", kvx_error_text());
}

/* Runs callbacks until the count is reached. */
void devices_run_until(const uint32_t *count, uint32_t value)
{
	int64_t deadline_ns = kvx_now_ns() + EVENT_DEADLINE_NS;

	while (*count < value && kvx_now_ns() < deadline_ns)
		kvx_poller_run(&poller, 10 * KVX_NS_PER_MS);
	cr_assert_eq(*count, value);
}
