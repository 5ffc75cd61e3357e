/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of a verbs transport without the rest of it, over the fake provider: what the rest
 * would be told is taken down. One set per test. */
#ifndef KVX_TESTS_DEVICES_H
#define KVX_TESTS_DEVICES_H

#include "fake_verbs/fake_verbs.h"
#include "verbs/verbs.h"

#define LOGGED_MAX 8191u

struct told {
	struct kvx_verbs_port *port;
	struct kvx_verbs_device *device;
	struct kvx_verbs_pair *pair;
	bool up;
	uint32_t port_changes, deaths, pair_failures, polls;
	uint32_t qpn; /* asked for */
	char text[256];
};

extern struct kvx_options *options;
extern struct kvx_poller poller;
extern struct kvx_transport transport;
extern struct kvx_transport_context context;
extern char logged[LOGGED_MAX + 1]; /* all lines */
extern struct told told;
extern struct kvx_verbs_pair *known_pair; /* that every queue pair belongs to, or NULL */

/* Of a suite: init, and fini, which asserts that nothing of the devices is left. */
void devices_set_up(void);
void devices_tear_down(void);

void devices_option(const char *name, const char *value);

/* What FAKE_VERBS_DEVICES is to say; only the first of a test counts. Returns
 * kvx_verbs_devices_open()'s result. */
int devices_open(const char *devices);

/* Runs callbacks until *count is `value`. */
void devices_run_until(const uint32_t *count, uint32_t value);

#endif
