/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For who operates an engine rather than uses it: look at everything that is open in it, follow
 * what happens, read its figures, take a grant back, drain it before a restart. The control socket
 * (option control, docs/control-api.md) is made of these calls; a program may use them itself.
 *
 * Things are named by id: a number above 0, never used twice in the life of an engine. Lists are
 * copies, in the order of ids, taken a part at a time: `after` is the last id that is known
 * already, 0 to begin with.
 *
 *   while ((count = kvx_engine_grants(engine, after, views, 16)) > 0)
 *           after = views[count - 1].id;
 *
 * Any thread may call any function while the engine is open. None disturbs the data path: nothing
 * here holds a lock that the engine's thread takes for more than a few instructions. Errors and
 * conventions as in kvxfer.h; unknown ids are KVX_E_INVALID.
 */
#ifndef KVXFER_OPERATE_H
#define KVXFER_OPERATE_H

#include <kvxfer/kvxfer.h>

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct kvx_topology;

/* ------------------------------------------------------------------------------------ the engine
 */

/* One transport of the build. */
struct kvx_transport_view {
	const char *name;                 /* static */
	bool on;                          /* this engine uses it */
	bool one_sided;                   /* it writes without the receiver's CPU */
	char address[256];                /* where peers reach it; "" while off */
	char why[KVX_ERROR_TEXT_MAX + 1]; /* why it is on, or off */
};

/* The transport of that index, counted from 0, best first. KVX_E_INVALID past the last. */
int kvx_engine_transport(const struct kvx_engine *engine, uint32_t index,
			 struct kvx_transport_view *view);

/* The machine as the engine sees it, for topology.h; NULL: it has no need to know, or does not.
 * Owned by the engine. */
const struct kvx_topology *kvx_engine_topology(const struct kvx_engine *engine);

/* ms since it opened. */
uint64_t kvx_engine_uptime_ms(const struct kvx_engine *engine);

/* The value of an option of this engine as text. At most size - 1 characters and a zero go to
 * text. */
int kvx_engine_option(const struct kvx_engine *engine, const char *name, char *text, size_t size);

/* Changes an option of an open engine; holds for what begins afterwards. Only options that
 * kvx_option_is_live() tells of. Errors: KVX_E_INVALID (no such option, not a live one, or a value
 * that it does not take). */
int kvx_engine_set_option(struct kvx_engine *engine, const char *name, const char *value);

/* Whether an open engine's option may be changed. */
bool kvx_option_is_live(const char *name);

/* ------------------------------------------------------------------------------- memory and pools
 */

struct kvx_region_view {
	uint64_t id;
	const void *address;
	uint64_t bytes;
	const char *kind; /* "host", "shared" (kvx_region_alloc), "cuda" or "dmabuf"; static */
	uint32_t users;   /* tensors of pools and tails in it */
	char device[48];  /* of cuda: its number and PCI address, as "0 0000:3b:00.0"; else "" */
	const char *gpudirect; /* by what NICs reach it: "dma-buf" or "peer memory"; "": they do
				  not, or it is the CPU's; static */
	char near[256];        /* ports near it, as "mlx5_0:1 (share 0.50), ..."; "" if not known */
};

struct kvx_pool_view {
	uint64_t id;
	struct kvx_geometry geometry; /* complete */
	uint64_t hash;                /* kvx_geometry_hash() */
	uint64_t layer_block_bytes;   /* a block in all planes of one layer */
	uint32_t granted_blocks;      /* that open grants hold, of geometry.blocks */
	uint32_t users;               /* open grants and streams */
	bool readable;                /* the CPU may read it */
};

/* At most `capacity` views with ids above `after`; returns how many. */
int kvx_engine_regions(struct kvx_engine *engine, uint64_t after, struct kvx_region_view *views,
		       uint32_t capacity);
int kvx_engine_pools(struct kvx_engine *engine, uint64_t after, struct kvx_pool_view *views,
		     uint32_t capacity);

/* The object of an id, kept from being closed until it is given back: meanwhile closing it fails
 * with KVX_E_BUSY. For opening a grant or stream of a pool that other code owns. */
int kvx_pool_hold(struct kvx_engine *engine, uint64_t id, struct kvx_pool **pool);
void kvx_pool_release(struct kvx_pool *pool);
int kvx_region_hold(struct kvx_engine *engine, uint64_t id, struct kvx_region **region);
void kvx_region_release(struct kvx_region *region);

/* A number (XXH3, 64 bits) over each layer of these blocks, planes outermost, in the order given:
 * equal at both ends of a request between pools that are alike. sums: one for each layer. Errors:
 * KVX_E_INVALID (a block out of range), KVX_E_UNSUPPORTED (the CPU cannot read this memory). */
int kvx_pool_checksum(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		      uint64_t *sums);

/* ----------------------------------------------------------------------------------------- peers
 */

struct kvx_peer_view {
	uint64_t id;
	bool outgoing; /* this engine connected: its streams go there; else the peer's come here */
	struct kvx_peer_info info;
	char address[256];  /* where it was connected to; "" for one that came */
	uint32_t rails;     /* up or not */
	uint32_t transfers; /* streams to it, or grants that it feeds */
	uint64_t silent_ms; /* since it was heard last */
};

struct kvx_rail_view {
	char port[64]; /* local port that carries it, as "mlx5_0:1" */
	bool up;
	uint32_t weight;     /* its share of the last stream, relative to the others'; 0: none */
	uint64_t bytes_sent; /* of units that the receiver has */
	uint64_t bytes_received; /* of units that were counted */
	uint64_t failures;       /* times that it went down */
};

int kvx_engine_peers(struct kvx_engine *engine, uint64_t after, struct kvx_peer_view *views,
		     uint32_t capacity);

/* The first `capacity` rails of a peer; returns how many were written. */
int kvx_engine_rails(struct kvx_engine *engine, uint64_t peer, struct kvx_rail_view *views,
		     uint32_t capacity);

/* Ends the connection with a peer and whatever goes on over it; a later stream connects anew. */
int kvx_engine_forget(struct kvx_engine *engine, uint64_t peer);

/* ---------------------------------------------------------------------------- grants and streams
 */

enum kvx_transfer_state { KVX_STATE_OPEN, KVX_STATE_COMPLETE, KVX_STATE_FAILED };

struct kvx_grant_view {
	uint64_t id, pool;
	enum kvx_transfer_state state;
	int code;                          /* failed: why */
	char text[KVX_ERROR_TEXT_MAX + 1]; /* failed: why; else "" */
	uint32_t blocks, tokens, held_blocks;
	uint32_t senders, senders_came;
	uint32_t layers, layers_whole; /* the tail is not one of them */
	uint32_t tail_bytes;
	uint32_t lease_ms;
	bool fenced;                   /* no byte of it lands any more */
	uint64_t age_ms;               /* since it was opened */
	uint64_t end_ms;               /* from its opening to its end; 0: it goes on */
	uint64_t bytes;                /* that have arrived and were counted */
	uint64_t sender_incarnation;   /* of the sender that came first; 0: none came */
	char sender[KVX_NAME_MAX + 1]; /* its name, or "" */
};

struct kvx_stream_view {
	uint64_t id, pool;
	enum kvx_transfer_state state;
	int code;
	char text[KVX_ERROR_TEXT_MAX + 1];
	bool offered;  /* made by kvx_offer_open() */
	bool accepted; /* the receiver counts on it */
	bool drained;  /* nothing reads its blocks any more */
	uint32_t tokens;
	uint32_t layers, layers_ready, layers_delivered; /* ready: all tokens of the layer */
	uint32_t tail_bytes;
	uint64_t age_ms, end_ms;
	uint64_t bytes;                  /* that are delivered */
	char receiver[KVX_NAME_MAX + 1]; /* engine of its grant; "": nobody has pulled the offer */
	uint64_t receiver_incarnation;
};

int kvx_engine_grants(struct kvx_engine *engine, uint64_t after, struct kvx_grant_view *views,
		      uint32_t capacity);
int kvx_engine_streams(struct kvx_engine *engine, uint64_t after, struct kvx_stream_view *views,
		       uint32_t capacity);

/* The id of a thing of one's own. A peer is listed a moment after kvx_peer_connect(). */
uint64_t kvx_peer_id(const struct kvx_peer *peer);
uint64_t kvx_grant_id(const struct kvx_grant *grant);
uint64_t kvx_stream_id(const struct kvx_stream *stream);
uint64_t kvx_pool_id(const struct kvx_pool *pool);
uint64_t kvx_region_id(const struct kvx_region *region);

/* How far a layer is. */
struct kvx_layer_view {
	bool ready;       /* streams: told of, all tokens */
	bool done;        /* whole, or delivered */
	uint32_t arrived; /* grants: units, of target */
	uint32_t target;  /* 0: not known yet */
};

/* The layers, then the tail if there is one; at most capacity. Returns how many were written. */
int kvx_engine_grant_layers(struct kvx_engine *engine, uint64_t id, struct kvx_layer_view *views,
			    uint32_t capacity);
int kvx_engine_stream_layers(struct kvx_engine *engine, uint64_t id, struct kvx_layer_view *views,
			     uint32_t capacity);

/* Begins to end a grant with KVX_E_REVOKED; its view is `fenced` when no byte lands any more.
 * drain_ms as in kvx_grant_revoke(). Its handle stays its owner's, who still has to close it. Does
 * nothing to one that has ended. */
int kvx_engine_revoke(struct kvx_engine *engine, uint64_t grant, uint32_t drain_ms);

/* Begins to end a stream with KVX_E_CANCELLED; its view is `drained` when nothing reads its blocks
 * any more. */
int kvx_engine_cancel(struct kvx_engine *engine, uint64_t stream);

/* ----------------------------------------------------------------------------------------- drain
 */

enum kvx_drain_state {
	KVX_DRAIN_OFF,     /* takes new grants and streams */
	KVX_DRAIN_WAITING, /* takes none; some go on */
	KVX_DRAIN_DONE,    /* takes none, and none goes on */
	KVX_DRAIN_OVERDUE, /* as waiting, past the deadline */
};

struct kvx_drain_view {
	enum kvx_drain_state state;
	uint32_t grants, streams; /* that go on */
	uint32_t left_ms;         /* until the deadline; 0: past it, or not draining */
};

/* From now on new grants, streams and offers fail with KVX_E_DRAINING; those that are open go on.
 * Done when the last has ended; what still goes on after deadline_ms (1..KVX_TIMEOUT_MAX_MS) is not
 * ended, but told: KVX_DRAIN_OVERDUE. Again: sets the deadline anew. */
int kvx_engine_drain(struct kvx_engine *engine, uint32_t deadline_ms);

/* Takes new ones again. */
int kvx_engine_resume(struct kvx_engine *engine);
void kvx_engine_drain_state(struct kvx_engine *engine, struct kvx_drain_view *view);

/* ---------------------------------------------------------------------------------------- events
 */

/* X(name, "name", what `id` is, what happened) */
#define KVX_EVENT_TABLE(X)                                                                      \
	X(KVX_EVENT_GRANT_OPENED, "grant_opened", "grant", "a grant was opened")                \
	X(KVX_EVENT_LAYER_WHOLE, "layer_whole", "grant", "a layer of a grant is whole")         \
	X(KVX_EVENT_GRANT_COMPLETE, "grant_complete", "grant", "all of a grant is whole")       \
	X(KVX_EVENT_GRANT_FAILED, "grant_failed", "grant", "a grant has failed")                \
	X(KVX_EVENT_STREAM_OPENED, "stream_opened", "stream", "a stream was opened")            \
	X(KVX_EVENT_STREAM_COMPLETE, "stream_complete", "stream", "all of it is delivered")     \
	X(KVX_EVENT_STREAM_FAILED, "stream_failed", "stream", "a stream has failed")            \
	X(KVX_EVENT_PEER_UP, "peer_up", "peer", "a peer is connected")                          \
	X(KVX_EVENT_PEER_BACK, "peer_back", "peer", "one of a name that was lost is connected") \
	X(KVX_EVENT_PEER_LOST, "peer_lost", "peer", "the connection with a peer has ended")     \
	X(KVX_EVENT_RAIL_DOWN, "rail_down", "peer", "a rail carries nothing any more")          \
	X(KVX_EVENT_RAIL_UP, "rail_up", "peer", "a rail carries again")                         \
	X(KVX_EVENT_DRAIN_DONE, "drain_done", "engine",                                         \
	  "nothing goes on, or the deadline has passed")

enum kvx_event_type {
#define KVX_EVENT_ENUM(name, text, of, help) name,
	KVX_EVENT_TABLE(KVX_EVENT_ENUM)
#undef KVX_EVENT_ENUM
};

/* "grant_opened"; NULL if there is no such type. Static. */
const char *kvx_event_name(enum kvx_event_type type);

#define KVX_EVENTS_KEPT 4096u   /* of an engine; older ones are overwritten */
#define KVX_EVENT_TEXT_MAX 191u /* characters of an event's text; longer ones are cut */

struct kvx_event_view {
	uint64_t sequence; /* from 1, without a gap */
	uint64_t time_ms;  /* wall clock, since 1970 */
	enum kvx_event_type type;
	uint64_t id;    /* of the grant, stream or peer; 0 for the engine */
	uint32_t index; /* of the layer (KVX_TAIL for the tail) or rail; else 0 */
	int code;       /* of a failure; else 0 */
	char text[KVX_EVENT_TEXT_MAX + 1]; /* why; a peer's name */
};

/*
 * Events with sequences above `after`, oldest first, at most `capacity`; waits up to timeout_ms for
 * the first. Returns how many; 0 after the time-out. A first sequence above after + 1 means that
 * those between were overwritten. Events are recorded from the first call on, so the one with
 * after 0, timeout_ms 0 begins. Layers are told within 10 ms, all else at once. KVX_E_MEMORY.
 */
int kvx_engine_events(struct kvx_engine *engine, uint64_t after, struct kvx_event_view *views,
		      uint32_t capacity, uint32_t timeout_ms);

/* --------------------------------------------------------------------------------------- metrics
 */

#define KVX_HISTOGRAM_BUCKETS 27u

/* Times. Bucket i counts those of at most 2^i us that no earlier one counts; `count` counts all,
 * also longer ones than 2^26 us. */
struct kvx_histogram {
	uint64_t count, sum_ns;
	uint64_t buckets[KVX_HISTOGRAM_BUCKETS];
};

struct kvx_metrics {
	struct kvx_stats stats;
	/* Streams: from a layer's ready until the receiver has it; until its first unit is posted;
	 * what the last layer's ready is before the end of the stream: the time that the transfer
	 * takes beyond the compute. */
	struct kvx_histogram layer_latency, queueing, exposed;
	/* Grants: from opening to whole; from the end of one that is not whole to its fence. */
	struct kvx_histogram grant_time, fence_time;
	uint64_t rails_back; /* rails that came up again */
	uint64_t revokes;    /* grants ended by this engine before they were whole */
	uint32_t grants_open, streams_open, offers_open; /* that go on */
	uint32_t peers_up, peers_connecting;
	uint64_t registered_bytes; /* of all regions */
	uint32_t regions;
	uint64_t staging_bytes; /* memory that pieces are gathered in */
};
void kvx_engine_metrics(struct kvx_engine *engine, struct kvx_metrics *metrics);

#define KVX_PORTS_MAX 64u /* in one engine; the last sums up all further ones, as "other" */

/* What a local port has carried since the engine opened, over all peers. Each figure only grows,
 * and counts a unit once, when the receiver has it, so that no rate can exceed the line's. */
struct kvx_port_view {
	const char *transport;   /* static */
	char port[64];           /* as in struct kvx_rail_view */
	uint64_t bytes_sent;     /* delivered */
	uint64_t bytes_received; /* counted */
	uint64_t slices_sent;    /* of delivered units */
	uint64_t units_sent;     /* delivered */
	uint64_t units_received; /* counted */
	uint64_t failures;       /* times that a rail of it went down */
};

/* The port of that index, counted from 0. KVX_E_INVALID past the last. */
int kvx_engine_port(const struct kvx_engine *engine, uint32_t index, struct kvx_port_view *view);

/* ------------------------------------------------------------------------------- control socket
 */

/* Where the control socket listens: "unix:/run/kvxfer/x.sock", and after a comma
 * "https://127.0.0.1:7400"; "" if it is off. Owned by the engine. */
const char *kvx_engine_control(const struct kvx_engine *engine);

#define KVX_TOKEN_MAX 128u /* characters */

/* What a client of the control socket's TCP side needs, from the cluster's secret (a file of this
 * user, mode 0600 or less, docs/control-api.md): the token that it sends ("Authorization: Bearer
 * TOKEN") and the server's public key, as curl's --pinnedpubkey takes it ("sha256//...", of two
 * secrets both, separated by a semicolon, since a server shows that of its first). Each
 * KVX_TOKEN_MAX + 1 characters of the caller's. Errors: KVX_E_INVALID (not such a file),
 * KVX_E_UNSUPPORTED (a build without the control socket). */
int kvx_control_credentials(const char *secret_file, char *token, char *pinned);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
