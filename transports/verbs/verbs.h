/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of verbs among themselves. A link is a control connection, made by another transport
 * (tcp), and reliable-connected queue pairs, its rails. Everything here belongs to the worker's
 * thread but what says otherwise.
 *
 *	verbs.c    operations, the sink between the control connection and the engine
 *	device.c   devices, completion queues, shared receive queues, asynchronous events
 *	select.c   option verbs_devices
 *	port.c     ports: state, speed, which GID and why
 *	gid.c      which GID of a port, by rule
 *	memory.c   registration with devices
 *	setup.c    threads for calls that may wait for a driver or the network
 *	pair.c     one queue pair, from creation to destruction
 *	post.c     batches onto a queue pair, and completions
 *	window.c   permits: memory windows on queue pairs
 *	rail.c     one rail: its queue pair made, lost and made anew
 *	link.c     from a control connection to a link; messages, reports, the end
 *	share.c    which rail carries how much of a request
 *	match.c    which local port goes with which remote one
 *	wire.c     what is said over the control connection
 *	doctor.c   what can be tried with devices without an engine
 */
#ifndef KVX_VERBS_VERBS_H
#define KVX_VERBS_VERBS_H

#include "../transport.h"
#include "base/list.h"

#include <infiniband/verbs.h>
#include <pthread.h>

#define KVX_VERBS_DEVICES_MAX 32u
#define KVX_VERBS_PORTS_MAX 32u /* of one engine */
#define KVX_VERBS_PAIRS_MAX 16384u
#define KVX_VERBS_NAME_MAX 63u
#define KVX_VERBS_SEND_WRS 512u        /* of a queue pair that sends */
#define KVX_VERBS_WINDOW_WRS 32u       /* of one that receives: windows bound or invalidated */
#define KVX_VERBS_INLINE_BYTES 64u     /* slices up to this travel in the work request */
#define KVX_VERBS_CHUNK_MIN (2u << 20) /* a piece of registered memory is at least this large */
#define KVX_VERBS_KEYS_BYTES_MAX (64u << 20) /* of all keys that one peer gave */
#define KVX_VERBS_RECEIVE_ID UINT64_MAX      /* wr_id of all receives */

extern const struct kvx_transport_ops kvx_verbs_transport;

/* ------------------------------------------------------------------------------------- device.c */

struct kvx_verbs_pair;

struct kvx_verbs_device {
	struct kvx_transport *transport;
	uint32_t index; /* in transport->devices */
	char name[KVX_VERBS_NAME_MAX + 1];
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_srq *srq;
	struct kvx_pollable channel_ready; /* of the channel's descriptor */
	struct kvx_pollable async_ready;   /* of the context's; both non-blocking */

	/* What it can do. */
	bool windows;          /* memory windows of type 2B */
	uint8_t reads_out;     /* reads that one queue pair may have outstanding, 0: none */
	uint8_t reads_in;      /* and those it can answer */
	uint64_t mr_bytes_max; /* of one registration; power of two */

	uint32_t gid_room; /* entries of all its ports' GID tables, at most */

	_Atomic bool dead;     /* never used again; the worker writes, attach() reads */
	uint32_t send_room;    /* work requests that the completion queue has room for */
	uint32_t receives;     /* that the shared receive queue holds */
	uint32_t receives_due; /* consumed from the shared receive queue, to be posted again */
	uint32_t events_unacknowledged; /* of the completion channel */
};

struct kvx_verbs_port {
	struct kvx_verbs_device *device;
	uint8_t number;     /* from 1 */
	uint8_t link_layer; /* IBV_LINK_LAYER_ETHERNET or _INFINIBAND */
	uint8_t gid_index;
	uint8_t prefix_bits; /* RoCE: of the interface's network (IPv4: at most 32); 0: not known */
	union ibv_gid gid;
	uint16_t lid;
	uint8_t mtu;         /* enum ibv_mtu: active, or the option's where that is smaller */
	uint32_t speed_mbps; /* of the port, active speed times width; 0: not known */
	bool up;
	char interface[32]; /* RoCE: the network interface, or empty */
	char why[160];      /* "gid 3, RoCE v2, 10.77.0.1 of rail0: IPv4 address of the port's own
			       interface" */
};

/* Opens the devices of option verbs_devices ("mlx5_0,mlx5_1:1"; empty: all) that have a usable
 * port, and fills transport->devices and ->ports, ordered by name and port. Opener's thread; may
 * block. KVX_E_UNSUPPORTED: there is none (the text says what was found and what was missing);
 * KVX_E_INVALID: an option that names what is not there; KVX_E_MEMORY; KVX_E_SYSTEM. On failure
 * nothing stays open. */
int kvx_verbs_devices_open(struct kvx_transport *transport);
void kvx_verbs_devices_close(struct kvx_transport *transport);

/* Asks for an event at the next completion. */
void kvx_verbs_device_arm(struct kvx_verbs_device *device);

/* Posts what the shared receive queue lacks, in batches; at once when `all`. */
void kvx_verbs_device_refill(struct kvx_verbs_device *device, bool all);

/* ------------------------------------------------------------------------------------- select.c */

/* Is the option well-formed, and does each device that it names exist? KVX_E_INVALID. */
int kvx_verbs_selection_check(const struct kvx_options *options, struct ibv_device **list,
			      int count);

/* Has the device, with `count` ports, all ports that are named? KVX_E_INVALID. */
int kvx_verbs_selection_check_ports(const struct kvx_options *options, const char *name,
				    uint32_t count);

/* Is the port to be used, or with port 0: any of the device? After the check. */
bool kvx_verbs_is_selected(const struct kvx_options *options, const char *name, uint32_t port);

/* --------------------------------------------------------------------------------------- port.c */

/* Fills in a port whose device and number are set. May block. KVX_E_UNSUPPORTED: it cannot be used;
 * KVX_E_INVALID: an option names what it lacks; the text says why. */
int kvx_verbs_port_open(struct kvx_verbs_port *port);

/* Chooses the GID by the table as it is now. On failure, as above, it stays as it was. */
int kvx_verbs_port_choose_gid(struct kvx_verbs_port *port);

/* Looks at the port again: state, speed, MTU, and the GID where it is gone. Returns whether it is
 * up now. */
bool kvx_verbs_port_refresh(struct kvx_verbs_port *port);

/* "mlx5_0 port 1" */
void kvx_verbs_port_name(const struct kvx_verbs_port *port, char *text, size_t size);

/* ---------------------------------------------------------------------------------------- gid.c */

enum kvx_verbs_gid_type { KVX_VERBS_GID_IB, KVX_VERBS_GID_ROCE_V1, KVX_VERBS_GID_ROCE_V2 };

/* A row of a port's GID table. */
struct kvx_verbs_gid {
	uint32_t index;
	enum kvx_verbs_gid_type type;
	union ibv_gid gid;
	uint32_t interface; /* index of the network interface that it belongs to, 0: none */
	bool own;           /* the address is one of that interface's, so it is in use */
};

/* The row to use. wanted: a row's index, or -1 for the rule (docs/rdma.md): RoCE v2 before v1,
 * IPv4-mapped before global before unique-local before link-local before loopback, addresses of the
 * port's own interface before others, lower indices first. Returns the place in `table` and says
 * why in text ("IPv4 address of the port's own interface"); or -1, with the reason there. Pure. */
int kvx_verbs_gid_choose(const struct kvx_verbs_gid *table, uint32_t count, int wanted, char *text,
			 size_t size);

/* "10.77.0.1", "2001:db8::1" or the 16 bytes of an InfiniBand GID. */
void kvx_verbs_gid_format(const union ibv_gid *gid, char *text, size_t size);

/* ------------------------------------------------------------------------------------- memory.c */

/* What devices know a kvx_memory by: memory->registered[transport->context->index]. Constant while
 * it is attached. mrs[device->index * chunks + chunk]; each chunk but the last has
 * transport->chunk_bytes. */
struct kvx_verbs_memory {
	uint32_t chunks;
	uint32_t windowless; /* bit of each device whose kernel binds no windows to this memory (a
			      * dma-buf): registered for peers as where windows are missing */
	struct ibv_mr *mrs[];
};

/* As the operations of the seam. */
int kvx_verbs_attach(struct kvx_transport *transport, struct kvx_memory *memory);
void kvx_verbs_detach(struct kvx_transport *transport, struct kvx_memory *memory);

/* Registers memory with one device, in known->mrs[] from device->index * known->chunks on. What was
 * registered before a failure stays there. */
int kvx_verbs_register(const struct kvx_verbs_device *device, const struct kvx_memory *memory,
		       struct kvx_verbs_memory *known);

/* "80 GiB" */
void kvx_verbs_bytes_format(uint64_t bytes, char *text, size_t size);

/* Why a call that locks `bytes` bytes (0: not known) failed: the error's text, and the
 * locked-memory limit with what to change where that may be it. */
void kvx_verbs_shortage_format(int error, uint64_t bytes, char *text, size_t size);

/* -------------------------------------------------------------------------------------- share.c */

/* How good a port is for attached memory: 0 not usable, 1 only for failover, else 1 + its weight.
 */
uint8_t kvx_verbs_nearness(const struct kvx_transport *transport, const struct kvx_memory *memory,
			   const struct kvx_verbs_port *port);

/* As the operations of the seam. */
uint32_t kvx_verbs_hint(const struct kvx_transport *transport, const struct kvx_memory *memory,
			uint8_t hint[KVX_HINT_MAX]);
uint32_t kvx_verbs_share(const struct kvx_link *base, const struct kvx_memory *memory,
			 const uint8_t *hint, uint32_t hint_bytes, struct kvx_shares *shares);

/* -------------------------------------------------------------------------------------- setup.c */

/* Work for a setup thread. Embedded; run() on that thread, then done() on the worker. */
struct kvx_verbs_job {
	struct kvx_list entry;
	void (*run)(struct kvx_verbs_job *job);
	void (*done)(struct kvx_verbs_job *job);
};

struct kvx_verbs_setup {
	pthread_mutex_t mutex; /* of the lists and ended */
	pthread_cond_t work;
	struct kvx_list waiting, finished;
	bool ended;
	uint32_t under_way; /* submitted and not done; the worker's */
	pthread_t threads[4];
	uint32_t thread_count;
	struct kvx_waker *waker;
};

int kvx_verbs_setup_open(struct kvx_verbs_setup *setup, struct kvx_waker *waker);

/* Runs what waits, joins the threads, and calls done() of all. */
void kvx_verbs_setup_close(struct kvx_verbs_setup *setup);
void kvx_verbs_setup_submit(struct kvx_verbs_setup *setup, struct kvx_verbs_job *job);

/* The worker: calls done() of finished jobs. Returns how many. */
int kvx_verbs_setup_progress(struct kvx_verbs_setup *setup);
bool kvx_verbs_setup_ready(struct kvx_verbs_setup *setup);

/* --------------------------------------------------------------------------------------- pair.c */

struct kvx_verbs_link;
struct kvx_verbs_rail;
struct kvx_verbs_permit;

/* What one side must know to connect its queue pair to the other's. */
struct kvx_verbs_end {
	uint32_t qpn, psn; /* 24 bits each */
	uint8_t mtu;       /* enum ibv_mtu */
	uint8_t reads_out, reads_in;
	uint16_t lid;
	union ibv_gid gid;
};

enum kvx_verbs_pair_state {
	KVX_VERBS_PAIR_MAKING,     /* a job creates it */
	KVX_VERBS_PAIR_MADE,       /* waits for the other end */
	KVX_VERBS_PAIR_CONNECTING, /* a job connects it */
	KVX_VERBS_PAIR_UP,
	KVX_VERBS_PAIR_DYING /* a job destroys it, or will when the one under way is done */
};

/* A signalled work request that is posted. */
struct kvx_verbs_posted {
	uint16_t wrs; /* room to give back: its own and of the unsignalled ones before it */
	bool read;
	bool probe;
	struct kvx_flow *flow;           /* a batch's */
	struct kvx_verbs_window *window; /* or the window that it binds or invalidates */
	struct kvx_unit unit;            /* of a read */
	uint64_t place;
	uint32_t bytes;
};

struct kvx_verbs_pair {
	struct kvx_verbs_job job;
	bool busy;                                 /* the job is under way */
	void (*done)(struct kvx_verbs_pair *pair); /* what it leads to */
	struct kvx_transport *transport;
	struct kvx_verbs_rail *rail; /* NULL once it is dying */
	struct kvx_verbs_port *port;
	enum kvx_verbs_pair_state state;
	uint32_t id; /* in the transport's table, with a generation above: upper half of wr_id */
	bool sends;  /* this side connected */
	int error;   /* of the job: errno; and what it tried */
	const char *tried;
	struct ibv_qp *qp;
	struct ibv_qp_ex *qpx; /* the extended post interface, or NULL */
	struct kvx_verbs_end local, remote;
	uint32_t inline_bytes;
	uint32_t room;                  /* work requests that the send queue takes */
	uint32_t ring_size, head, tail; /* posted[head..tail) modulo size */
	struct kvx_verbs_posted *posted;
	struct kvx_list by_qpn;        /* of the transport's table */
	struct kvx_list windows_spare; /* bound for nothing */
	struct kvx_list windows_due;   /* to be bound or invalidated, in order */
	struct kvx_list windows_used;  /* bound, or under way */
	struct kvx_list windows_new;   /* from the job that allocates them */
	uint32_t windows_wanted;       /* by that job */
	uint32_t windows_binding;      /* so many are not bound yet */
	bool extending;                /* kvx_verbs_pair_permitted() is owed */
};

/* Begins to create a queue pair for a rail, and puts it there; kvx_verbs_pair_made() follows.
 * False: no memory, or too many. */
bool kvx_verbs_pair_new(struct kvx_verbs_rail *rail);

/* Connects it to the other end, with receives and sends enabled; kvx_verbs_pair_connected()
 * follows. */
void kvx_verbs_pair_connect(struct kvx_verbs_pair *pair, const struct kvx_verbs_end *remote);

/* Takes it from its rail and begins to destroy it: flows drain and windows end when that is done.
 */
void kvx_verbs_pair_end(struct kvx_verbs_pair *pair);

/* A job of its own, in place of creation, connection and end. */
void kvx_verbs_pair_run(struct kvx_verbs_pair *pair, void (*run)(struct kvx_verbs_job *),
			void (*done)(struct kvx_verbs_pair *pair));

/* By the upper half of a wr_id; by number. NULL: it is dying or gone. */
struct kvx_verbs_pair *kvx_verbs_pair_of(const struct kvx_transport *transport, uint64_t wr_id);
struct kvx_verbs_pair *kvx_verbs_pair_by_number(const struct kvx_verbs_device *device,
						uint32_t qpn);

/* --------------------------------------------------------------------------------------- post.c */

bool kvx_verbs_post(struct kvx_link *base, uint32_t index, const struct kvx_batch *batch);
void kvx_verbs_withdraw(struct kvx_link *base, struct kvx_flow *flow);

/* Breaks the rails that carry a withdrawn flow for too long. */
int kvx_verbs_drain_expire(struct kvx_transport *transport, int64_t now_ns);

/* Writes no bytes, so that the way to the peer is known to work; kvx_verbs_pair_probed() follows,
 * or the pair's rail fails. */
void kvx_verbs_probe(struct kvx_verbs_pair *pair);

/* Looks at completions. Returns how many there were. */
int kvx_verbs_poll(struct kvx_verbs_device *device);

/* Takes the last posted request's place in the ring. NULL: there is no room for so many. */
struct kvx_verbs_posted *kvx_verbs_reserve(struct kvx_verbs_pair *pair, uint32_t wrs,
					   uint64_t *wr_id);

/* What it had posted is given up: room comes back, flows drain. */
void kvx_verbs_posted_clear(struct kvx_verbs_pair *pair);

/* ------------------------------------------------------------------------------------- window.c */

enum kvx_verbs_window_state {
	KVX_VERBS_WINDOW_BINDING, /* due or posted */
	KVX_VERBS_WINDOW_BOUND,
	KVX_VERBS_WINDOW_ENDING /* invalidation due or posted */
};

/* A memory window of one queue pair, bound for a piece of a permit. Where the device has none:
 * without mw, for the piece's own key. */
struct kvx_verbs_window {
	struct kvx_list entry; /* of the pair's spare, due or used ones */
	enum kvx_verbs_window_state state;
	bool plain;        /* no window: the piece's own key */
	struct ibv_mw *mw; /* NULL: to be allocated, unless plain */
	uint32_t rkey;
	struct kvx_verbs_pair *pair;
	struct kvx_verbs_permit *permit; /* NULL: spare */
	struct kvx_list of_permit;
	uint32_t memory, piece; /* the latter: of all the permit's */
	uint64_t base;          /* of the piece */
	struct ibv_mr *mr;
};

/* A permit lent over a link. */
struct kvx_verbs_permit {
	struct kvx_list entry;  /* of the link's, then of the transport's orphans */
	struct kvx_list notice; /* of the transport's: something is to be told */
	struct kvx_transport *transport;
	struct kvx_verbs_link *link; /* NULL once it is disconnected */
	struct kvx_permit *lent;
	struct kvx_list windows; /* on all pairs */
	uint32_t pieces;         /* chunks of all its memories */
	uint32_t binding;        /* windows not bound yet */
	bool told;               /* permitted() was called */
	bool ending;
};

bool kvx_verbs_lend(struct kvx_link *base, struct kvx_permit *lent);
void kvx_verbs_forbid(struct kvx_link *base, struct kvx_permit *lent, bool stopped);

/* All the link's permits are to hold over this new pair too; kvx_verbs_pair_permitted() follows
 * when the peer was told the keys, maybe at once. */
void kvx_verbs_permits_extend(struct kvx_verbs_pair *pair);

/* The link is disconnected: its permits end with its pairs. */
void kvx_verbs_permits_end(struct kvx_verbs_link *link);

/* Tells of permits that are in force, or over. Returns how many. */
int kvx_verbs_permits_report(struct kvx_transport *transport);

/* Posts what is due. */
void kvx_verbs_windows_post(struct kvx_verbs_pair *pair);

/* A window's bind or invalidation is done. */
void kvx_verbs_window_done(struct kvx_verbs_window *window);

/* Frees the hardware's windows (a setup thread); the rest, when their pair is gone. */
void kvx_verbs_windows_free(struct kvx_verbs_pair *pair);
void kvx_verbs_windows_die(struct kvx_verbs_pair *pair);

/* --------------------------------------------------------------------------------------- rail.c */

enum kvx_verbs_rail_state {
	KVX_VERBS_RAIL_DOWN,
	KVX_VERBS_RAIL_MAKING, /* from the first job to the last message */
	KVX_VERBS_RAIL_UP
};

struct kvx_verbs_rail {
	struct kvx_verbs_link *link;
	enum kvx_verbs_rail_state state;
	struct kvx_verbs_port *port; /* local */
	uint32_t remote_port;        /* index into link->remote */
	struct kvx_verbs_pair *pair; /* or NULL */
	int64_t due_ns;     /* connecting side: retry when down, deadline while it is made */
	int64_t backoff_ns; /* connecting side: until the next retry */
	int64_t up_ns;      /* since when it is up */
	bool lost;          /* it was up since the last report */
	bool told_up;       /* the sink's view; true before link_up */
	bool tried;         /* since the link is made */
	bool proven;        /* connecting side: it has carried bytes since it is up */
	uint32_t unproven;  /* times in a row that it failed before it did */
	bool path_works;    /* whatever it is that failed */
	bool answered;      /* accepting side: the peer may have connected its end */
	char *why;          /* it is down; owned, or NULL */
};

/* A port of the other side, as it announced it. */
struct kvx_verbs_remote_port {
	uint8_t link_layer, mtu, prefix_bits, up;
	uint16_t lid;
	uint32_t speed_mbps;
	union ibv_gid gid;
};

enum kvx_verbs_link_state {
	KVX_VERBS_LINK_MAKING, /* control connection, ports, rails; the engine knows no accepted one
				*/
	KVX_VERBS_LINK_UP,
	KVX_VERBS_LINK_DOWN
};

/* The keys to memory of the other side, for one of our flows. keys[piece * rails + rail]. */
struct kvx_verbs_keys {
	struct kvx_list entry; /* of the link's */
	uint32_t slot, generation;
	uint32_t memories, pieces;
	uint32_t chunk_shift;  /* pieces have 2^this bytes */
	uint64_t *bases;       /* of each piece: remote address */
	uint32_t *firsts;      /* of each memory: its first piece */
	uint32_t *keys;        /* 0: none */
	struct kvx_flow *flow; /* whose they are, once it posted */
	size_t bytes;          /* that they take */
	bool refused;          /* a batch went where there is no key; told at the next progress */
};

/* Connecting side: makes a rail that is down; its outcome is kvx_verbs_link_tried()'s. */
void kvx_verbs_rail_make(struct kvx_verbs_rail *rail);

/* The peer's words. */
struct kvx_verbs_message;
void kvx_verbs_rail_asked(struct kvx_verbs_rail *rail, const struct kvx_verbs_message *ask);
void kvx_verbs_rail_answered(struct kvx_verbs_rail *rail, const struct kvx_verbs_message *answer);
void kvx_verbs_rail_ready(struct kvx_verbs_rail *rail);

/* The rail is down; told at the next progress, and to the peer unless it said so. The connecting
 * side makes it anew. */
void kvx_verbs_rail_fail(struct kvx_verbs_rail *rail, bool tell_peer, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, because the peer's port does not acknowledge. */
void kvx_verbs_rail_unacknowledged(struct kvx_verbs_rail *rail, const char *text);

/* Deadlines and retries. */
int kvx_verbs_rail_expire(struct kvx_verbs_rail *rail, int64_t now_ns);

/* pair.c and window.c tell of their pair. error in the pair, if it is not 0. */
void kvx_verbs_pair_made(struct kvx_verbs_pair *pair);
void kvx_verbs_pair_connected(struct kvx_verbs_pair *pair);
void kvx_verbs_pair_probed(struct kvx_verbs_pair *pair);
void kvx_verbs_pair_permitted(struct kvx_verbs_pair *pair);

/* --------------------------------------------------------------------------------------- link.c */

struct kvx_verbs_link {
	struct kvx_link base;
	struct kvx_list entry;    /* of the transport's links */
	struct kvx_link *control; /* its owner is this link; NULL once it is down */
	enum kvx_verbs_link_state state;
	bool connector; /* this side connected */
	bool known;     /* accepted, and the engine knows it */
	bool told;      /* the sink knows that it is down */
	bool troubled;  /* something is to be told at the next progress */
	int code;
	char text[KVX_ERROR_TEXT_MAX + 1];
	int64_t deadline_ns; /* of being made; once up: by when a rail must be up again, or never */
	char name[KVX_ADDRESS_MAX + 1]; /* of the other side's control address */
	struct kvx_verbs_remote_port remote[KVX_VERBS_PORTS_MAX];
	uint32_t remote_count;
	bool introduced; /* the other side has told its ports */
	uint32_t rails_up;
	struct kvx_list permits;      /* accepting side */
	struct kvx_list keys;         /* connecting side */
	size_t keys_bytes;            /* of them */
	struct kvx_verbs_rail *rails; /* base.rails of them; NULL before they are known */
};

/* connect() and its end; the rest of the seam's. */
int kvx_verbs_connect(struct kvx_transport *transport, const char *address,
		      struct kvx_link **result);
void kvx_verbs_disconnect(struct kvx_link *base);
void kvx_verbs_message(struct kvx_link *base, const void *bytes, uint32_t length);
void kvx_verbs_explain(const struct kvx_link *base, char *text, size_t size);
void kvx_verbs_rail_port(const struct kvx_link *base, uint32_t rail, char *text, size_t size);

/* A control connection was accepted. */
void kvx_verbs_link_accept(struct kvx_transport *transport, struct kvx_link *control);

/* Over the control connection. */
void kvx_verbs_say(struct kvx_verbs_link *link, const struct kvx_verbs_message *message);
void kvx_verbs_link_hear(struct kvx_verbs_link *link, const void *bytes, uint32_t length);
void kvx_verbs_link_introduce(struct kvx_verbs_link *link); /* it is up: say our ports */

/* The link is over: told at the next progress. The first failure counts. */
void kvx_verbs_link_fail(struct kvx_verbs_link *link, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Something changed: told at the next progress. */
void kvx_verbs_link_trouble(struct kvx_verbs_link *link);

/* A rail is up or was given up, while the link is made. */
void kvx_verbs_link_tried(struct kvx_verbs_link *link);

/* Tells the sink what is to tell. */
void kvx_verbs_link_report(struct kvx_verbs_link *link);
int kvx_verbs_link_expire(struct kvx_verbs_link *link, int64_t now_ns);

/* Forgets the keys of a flow. */
void kvx_verbs_keys_free(struct kvx_verbs_link *link, struct kvx_verbs_keys *keys);

/* --------------------------------------------------------------------------------------- verbs.c
 */

struct kvx_transport {
	const struct kvx_transport_context *context;

	/* The control connections' transport, with this one as its engine. */
	const struct kvx_transport_ops *control_ops;
	struct kvx_transport *control;
	struct kvx_transport_context control_context;
	struct kvx_options control_options;

	struct kvx_verbs_device devices[KVX_VERBS_DEVICES_MAX];
	uint32_t device_count;
	struct kvx_verbs_port ports[KVX_VERBS_PORTS_MAX];
	uint32_t port_count;
	uint64_t chunk_bytes; /* pieces that memory is registered in: the smallest limit, 2^shift */
	uint32_t chunk_shift;

	struct kvx_verbs_setup setup;
	struct kvx_verbs_pair **pairs; /* by the low bits of an id */
	uint32_t pair_sequence;
	struct kvx_list by_qpn[256];
	struct kvx_list links;
	struct kvx_list orphans;  /* permits of links that are gone */
	struct kvx_list notices;  /* permits with something to tell */
	struct kvx_list draining; /* withdrawn flows, in the order of their deadlines */
	uint32_t half_made;       /* accepted links that the engine does not know yet */
	int64_t timer_ns;         /* when a deadline or retry is due */
	bool troubled;            /* a link has something to tell */
};

/* progress() looks at deadlines at due_ns at the latest. */
void kvx_verbs_timer_set(struct kvx_transport *transport, int64_t due_ns);

/* device.c tells of events. text: "mlx5_0 port 1: port error". */
void kvx_verbs_port_changed(struct kvx_verbs_port *port, bool up, const char *text);
void kvx_verbs_device_died(struct kvx_verbs_device *device, const char *text);
void kvx_verbs_pair_failed(struct kvx_verbs_pair *pair, const char *text);

#endif
