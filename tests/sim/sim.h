/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator: engines of one process, driven step by step over a network, a clock and chance
 * that are made up, all from one seed. clock.c owns time and randomness, net*.c what lies behind
 * the seam, world.c the nodes and their turns, memory.c every byte that pools hold, request.c what
 * applications do, fault.c what goes wrong. docs/reliability.md says what is checked.
 */
#ifndef KVX_TESTS_SIM_H
#define KVX_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#define NODES_MAX 4u
#define US INT64_C(1000)
#define MS INT64_C(1000000)
#define NEVER INT64_MAX

/* What is summed up over all seeds. X(field, text) */
#define SIM_COUNTS(X)                               \
	X(requests, "requests")                     \
	X(complete, "complete")                     \
	X(must_complete, "of them none might fail") \
	X(bytes_checked, "bytes checked")           \
	X(steps, "engine steps")

/* Faults by kind. X(NAME, "name") */
#define SIM_FAULTS(X)                    \
	X(FAULT_RAIL, "rail failed")     \
	X(FAULT_BREAK, "link broken")    \
	X(FAULT_CUT, "partition")        \
	X(FAULT_STALL, "engine stopped") \
	X(FAULT_KILL, "engine killed")   \
	X(FAULT_RESTART, "restarted")    \
	X(FAULT_GARBAGE, "garbage")      \
	X(FAULT_FORGED, "forged unit")   \
	X(FAULT_REPEAT, "unit repeated") \
	X(FAULT_LATE, "late bytes")      \
	X(FAULT_REFUSED, "write refused")

enum sim_fault {
#define SIM_FAULT_ENUM(name, text) name,
	SIM_FAULTS(SIM_FAULT_ENUM)
#undef SIM_FAULT_ENUM
		FAULT_KINDS
};

struct sim_counts {
#define SIM_COUNT_FIELD(field, text) uint64_t field;
	SIM_COUNTS(SIM_COUNT_FIELD)
#undef SIM_COUNT_FIELD
	uint64_t faults[FAULT_KINDS];
	uint64_t failed[32]; /* requests, by minus their code */
	double seconds;      /* virtual */
};

/* clock.c */
extern int64_t sim_now_ns;

/* Called when an engine that somebody waits for would sleep so long; 0: it looks for descriptors
 * only. */
extern void (*sim_sleeper)(int64_t timeout_ns);

void sim_seed(uint64_t seed);
uint64_t sim_random(void);
uint32_t sim_below(uint32_t end);                  /* 0 .. end - 1 */
uint32_t sim_between(uint32_t low, uint32_t high); /* both included */
int64_t sim_span(int64_t low_ns, int64_t high_ns); /* both included */
bool sim_percent(uint32_t percent);

/* main.c */
extern struct sim_counts sim_counts;
extern bool sim_verbose;
extern uint64_t sim_digest; /* of all that happened in this seed */

void sim_note(uint64_t what); /* into the digest */
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A broken promise: says how to replay the seed, and exits. */
void sim_broken(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
