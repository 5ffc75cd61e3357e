/* SPDX-License-Identifier: Apache-2.0 */
#include "core/figures.h"

#include "base/clock.h"

#include <stdio.h>
#include <string.h>

/* The first bucket that holds it: that of the power of two at or above it, in us. */
static uint32_t bucket_of(uint64_t ns)
{
	uint64_t us = (ns + KVX_NS_PER_US - 1) / KVX_NS_PER_US;

	return us <= 1 ? 0 : 64 - (uint32_t)__builtin_clzll(us - 1);
}

void kvx_histogram_add(struct kvx_histogram *histogram, int64_t ns)
{
	uint64_t time_ns = ns > 0 ? (uint64_t)ns : 0;
	uint32_t bucket = bucket_of(time_ns);

	if (bucket < KVX_HISTOGRAM_BUCKETS)
		kvx_figure_add(histogram->buckets[bucket], 1);
	kvx_figure_add(histogram->sum_ns, time_ns);
	__atomic_store_n(&histogram->count, histogram->count + 1, __ATOMIC_RELEASE);
}

struct kvx_port_view *kvx_figures_port(struct kvx_figures *figures, const char *transport,
				       const char *name)
{
	uint32_t count = atomic_load_explicit(&figures->port_count, memory_order_relaxed);

	for (uint32_t i = 0; i < count; i++)
		if (strcmp(figures->ports[i].transport, transport) == 0 &&
		    strcmp(figures->ports[i].port, name) == 0)
			return &figures->ports[i];
	if (count == KVX_PORTS_MAX)
		return &figures->ports[count - 1];
	struct kvx_port_view *port = &figures->ports[count];
	bool last = count == KVX_PORTS_MAX - 1;
	port->transport = last ? "other" : transport;
	snprintf(port->port, sizeof(port->port), "%s", last ? "other" : name);
	atomic_store_explicit(&figures->port_count, count + 1, memory_order_release);
	return port;
}

void kvx_figures_sent(struct kvx_rail_figures *rail, uint64_t bytes, uint32_t slices)
{
	if (!rail)
		return;
	kvx_figure_add(rail->bytes_sent, bytes);
	kvx_figure_add(rail->port->bytes_sent, bytes);
	kvx_figure_add(rail->port->slices_sent, slices);
	kvx_figure_add(rail->port->units_sent, 1);
}

void kvx_figures_received(struct kvx_rail_figures *rail, uint64_t bytes)
{
	if (!rail)
		return;
	kvx_figure_add(rail->bytes_received, bytes);
	kvx_figure_add(rail->port->bytes_received, bytes);
	kvx_figure_add(rail->port->units_received, 1);
}

void kvx_histogram_copy(const struct kvx_histogram *from, struct kvx_histogram *to)
{
	/* In the opposite order of kvx_histogram_add(), so that the buckets hold all that count
	 * does: otherwise a new one would look longer than all buckets. */
	to->count = __atomic_load_n(&from->count, __ATOMIC_ACQUIRE);
	to->sum_ns = kvx_figure_get(from->sum_ns);
	for (uint32_t i = 0; i < KVX_HISTOGRAM_BUCKETS; i++)
		to->buckets[i] = kvx_figure_get(from->buckets[i]);
}

void kvx_port_copy(const struct kvx_port_view *from, struct kvx_port_view *to)
{
	to->transport = from->transport;
	memcpy(to->port, from->port, sizeof(to->port));
	to->bytes_sent = kvx_figure_get(from->bytes_sent);
	to->bytes_received = kvx_figure_get(from->bytes_received);
	to->slices_sent = kvx_figure_get(from->slices_sent);
	to->units_sent = kvx_figure_get(from->units_sent);
	to->units_received = kvx_figure_get(from->units_received);
	to->failures = kvx_figure_get(from->failures);
}
