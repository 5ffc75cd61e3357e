/* SPDX-License-Identifier: Apache-2.0 */
/* For a build without tracepoints: see on/trace.h. Arguments are checked, and never evaluated. */
#ifndef KVX_BASE_TRACE_H
#define KVX_BASE_TRACE_H

static inline void kvx_trace_nothing(int first, ...)
{
	(void)first;
}

#define KVX_TRACE(name, ...)                               \
	do {                                               \
		if (0)                                     \
			kvx_trace_nothing(0, __VA_ARGS__); \
	} while (0)

#endif
