/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport reports to, for targets that attack a transport alone: it gives bytes places as
 * an engine would, in pieces that depend on the unit, takes them away again and checks that only
 * bytes with a place are reported.
 */
#ifndef KVX_TESTS_FUZZ_FAKE_SINK_H
#define KVX_TESTS_FUZZ_FAKE_SINK_H

#include "transport.h"

#define FUZZ_SINK_LINKS_MAX 32u

extern bool fuzz_sink_refuses; /* no byte has a place */
extern int fuzz_sink_error;    /* errno of reading a peer's memory, for a target's own use */

/* Links that the sink knows, and those of them that have ended and are to be disconnected. */
extern struct kvx_link *fuzz_sink_links[FUZZ_SINK_LINKS_MAX];
extern bool fuzz_sink_ended[FUZZ_SINK_LINKS_MAX];

void fuzz_sink_reset(void);

/* Its sink and a log alone. */
struct kvx_transport_context fuzz_sink_context(void);

/* A link that connect() made. */
void fuzz_sink_know(struct kvx_link *link);

/* Disconnects those that have ended, or all. */
void fuzz_sink_disconnect(bool all);

#endif
