/* SPDX-License-Identifier: Apache-2.0 */
/* Figures that the worker keeps for who operates the engine. It writes them alone, so that no
 * locked instruction is needed; any thread reads each whole. */
#ifndef KVX_CORE_FIGURES_H
#define KVX_CORE_FIGURES_H

#include <kvxfer/operate.h>

#include <stdatomic.h>

#define kvx_figure_add(figure, amount) \
	__atomic_store_n(&(figure), (figure) + (amount), __ATOMIC_RELAXED)
#define kvx_figure_get(figure) __atomic_load_n(&(figure), __ATOMIC_RELAXED)

/* Of a peer's rail. The peer owns them. */
struct kvx_rail_figures {
	struct kvx_port_view *port; /* of the engine's; its name is constant */
	bool up;
	uint32_t weight;
	uint64_t bytes_sent, bytes_received, failures;
};

/* The engine's. */
struct kvx_figures {
	struct kvx_histogram layer_latency, queueing, exposed, grant_time, fence_time;
	uint64_t rails_back, revokes;
	struct kvx_port_view ports[KVX_PORTS_MAX];
	_Atomic uint32_t port_count; /* stored with release after the port's name */
};

/* The worker. */
void kvx_histogram_add(struct kvx_histogram *histogram, int64_t ns);

/* The figures of a local port; the last one stands for all that there is no room for. */
struct kvx_port_view *kvx_figures_port(struct kvx_figures *figures, const char *transport,
				       const char *name);

/* A unit was delivered, or counted. rail: NULL does nothing. */
void kvx_figures_sent(struct kvx_rail_figures *rail, uint64_t bytes, uint32_t slices);
void kvx_figures_received(struct kvx_rail_figures *rail, uint64_t bytes);

/* Any thread. */
void kvx_histogram_copy(const struct kvx_histogram *from, struct kvx_histogram *to);
void kvx_port_copy(const struct kvx_port_view *from, struct kvx_port_view *to);

#endif
