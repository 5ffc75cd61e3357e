/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network: wires between nodes, each with a channel of messages in both directions and rails
 * from who connected. What a channel holds keeps its order; channels do not. Two transports lie
 * over it: "put", whose receiver places the bytes, and "nic", which writes into the receiver's
 * memory by itself.
 */
#ifndef KVX_TESTS_SIM_NET_H
#define KVX_TESTS_SIM_NET_H

#include "sim.h"

#include "transport.h"

#define SIM_RAILS_MAX 4u
#define SORTS 2u /* of transports */

enum { CONNECTOR, ACCEPTOR };

struct packet {
	struct kvx_list entry;
	int64_t due_ns;
	uint32_t length; /* bytes of a message; 0: the other side has closed the wire */
	uint8_t *copy;   /* of a message; of a batch that its sender's memory is not needed for */

	/* A batch. */
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes, done;
	bool last;
	struct kvx_flow *flow;     /* NULL: its sender has given it up, and it still travels */
	uint32_t slot, generation; /* of the permit */
	uint32_t count;
	struct kvx_slice slices[];
};

struct channel {
	struct kvx_list packets;
	int64_t last_due_ns;
	uint32_t count, bytes;
};

struct rail {
	struct channel channel;
	uint32_t epoch; /* odd: down */
	int64_t back_ns;
	uint32_t told[2]; /* epochs that each end knows */
	int64_t tell_ns[2];
};

struct end; /* of a wire: a link */

struct wire {
	struct kvx_list entry;
	bool one_sided, by_copy;
	uint32_t node[2];
	uint64_t incarnation[2];
	struct end *end[2]; /* NULL: not yet, or not any more */
	bool met;           /* the acceptor knows it */
	bool closed[2];     /* that side has gone */
	int64_t meet_ns, up_ns;
	struct channel messages[2]; /* by who sends */
	struct rail rails[SIM_RAILS_MAX];
	uint32_t rail_count;
	struct kvx_list events; /* of nic: arrivals and acknowledgements */
	uint32_t lent_count;
	uint64_t id;
};

/* A link. */
struct end {
	struct kvx_link link; /* first */
	struct kvx_list entry;
	struct wire *wire;
	int side;
	bool up, down;
	int64_t deadline_ns;
	int failure; /* told at failure_ns */
	int64_t failure_ns;
	const char *text;
};

/* What a NIC tells its engine. */
struct event {
	struct kvx_list entry;
	int64_t due_ns;
	int side; /* who is told */
	uint32_t rail, imm;
	struct kvx_flow *flow; /* of an acknowledgement */
	bool refused;
};

/* A permit in the hands of a transport. */
struct lent {
	struct kvx_list entry;
	struct kvx_permit *permit;
	struct wire *wire;
	bool told;
	int64_t permitted_ns, forbidden_ns;
};

struct kvx_transport {
	struct kvx_transport_context context;
	uint32_t node;
	struct kvx_list ends, lents, draining;
	char address[32];
	uint32_t attached;
};

/* How the network of a seed is. */
struct net {
	int64_t latency_ns, jitter_ns;
	uint32_t rails, depth;
	bool fixed_addresses; /* a restarted engine is where the old one was */
	uint32_t late_percent;
	struct kvx_list wires;
	uint64_t wire_count;
	struct kvx_transport *transports[NODES_MAX][SORTS];
	int64_t cut_until_ns[NODES_MAX][NODES_MAX];
	bool dead[NODES_MAX]; /* the node's engine is being buried */
};
extern struct net net;

extern const struct kvx_transport_ops sim_put_transport, sim_nic_transport;

/* world.c: something will happen to the node then. */
void world_wake(uint32_t node, int64_t when_ns);

/* net.c */
void net_open(void);
void net_close(void); /* nothing may be left */
int64_t net_next_ns(uint32_t node);
int64_t net_delay_ns(void);
bool net_is_cut(uint32_t from, uint32_t to);
struct wire *net_any_wire(void); /* that both ends know; NULL: there is none */
void wire_fail_rail(struct wire *wire, uint32_t rail);
void wire_break(struct wire *wire, const char *text);
void wire_drop_if_unused(struct wire *wire);
void net_kill(uint32_t node, bool silent);
void end_fail(struct end *end, int code, const char *text, int64_t when_ns);

/* packet.c */
struct packet *packet_new(struct channel *channel, uint32_t slices, const void *bytes,
			  uint32_t length);
void packet_free(struct channel *channel, struct packet *packet);
void packet_read(const struct packet *packet, uint32_t offset, void *to, uint32_t bytes);
void packet_give_up(struct packet *packet); /* it travels on without its sender */
void channel_open(struct channel *channel);
void channel_clear(struct channel *channel);
struct packet *channel_first(const struct channel *channel);

/* deliver.c: what a transport does when its engine drives it. */
int net_progress(struct kvx_transport *transport, int64_t now_ns);

/* nic.c */
void nic_run(void); /* lands what is due; needs no engine */
int64_t nic_next_ns(void);
struct event *nic_tell(struct wire *wire, int side);
bool nic_permit(struct kvx_link *link, struct kvx_permit *permit);
void nic_forbid(struct kvx_link *link, struct kvx_permit *permit, bool stopped);
void nic_flush(struct wire *wire, struct kvx_flow *flow); /* nothing of it is in flight any more */
void nic_hasten(struct wire *wire, uint32_t rail); /* its senders wait no longer for answers */
int nic_progress(struct kvx_transport *transport, int64_t now_ns);
int nic_events(struct end *end, int64_t now_ns);

#endif
