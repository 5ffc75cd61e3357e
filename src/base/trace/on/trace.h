/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Static tracepoints (USDT) of provider kvxfer, for bpftrace, perf and SystemTap: a build with them
 * finds this header, one without finds off/trace.h. docs/tracepoints.md lists them.
 *
 *   KVX_TRACE(layer_whole, grant->transfer.id, layer);
 *
 * One to six arguments, integers only. Until somebody looks, a tracepoint is one instruction that
 * does nothing; its arguments are only noted where they are at that moment, so they should be
 * values that the code has at hand.
 */
#ifndef KVX_BASE_TRACE_H
#define KVX_BASE_TRACE_H

#ifdef __clang__
/* Of several places where an argument may be, clang takes memory and stores it there first. */
#define STAP_SDT_ARG_CONSTRAINT nr
#endif
#define SDT_USE_VARIADIC 1
#include <sys/sdt.h>

#define KVX_TRACE(name, ...) STAP_PROBEV(kvxfer, name, __VA_ARGS__)

#endif
