/* SPDX-License-Identifier: Apache-2.0 */
/* A node that is made up: a folder in the place of /sys and /proc, and what the checks tell of it.
 * One per test. */
#ifndef KVX_TESTS_MADE_UP_H
#define KVX_TESTS_MADE_UP_H

#include "doctor/checkup.h"

#include <stddef.h>

#define TOLD_MAX 128u

struct told_finding {
	enum kvx_severity severity;
	char area[64];
	char found[KVX_FINDING_TEXT_MAX + 1];
	char action[KVX_FINDING_TEXT_MAX + 1];
};

extern struct kvx_checkup checkup; /* of the made-up node, with the default options */
extern struct kvx_options *options;
extern struct told_finding told_findings[TOLD_MAX];
extern uint32_t told_count;

/* Of a suite: init and fini. Where the CUDA driver is made up there is no device of it. */
void made_up_set_up(void);
void made_up_tear_down(void);

/* Takes a finding down; the function of checkup. Asserts that it says what to do. */
void take_finding(void *context, const struct kvx_finding *finding);

/* A file of the node: "sys/class/net/rail0/mtu". */
void put(const char *content, const char *format, ...) __attribute__((format(printf, 2, 3)));
void put_bytes(const void *bytes, size_t count, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The finding whose `found` holds the text; fails if there is none. */
const struct told_finding *expect_told(enum kvx_severity severity, const char *area,
				       const char *text);

/* No finding of the area is worse. */
void expect_at_most(enum kvx_severity severity, const char *area);

#endif
