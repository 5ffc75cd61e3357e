/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvxfer: moves the paged KV cache of LLM inference from prefill workers to decode workers,
 * layer by layer, and lets the receiver know by counting when a layer is whole.
 *
 * The life of a request:
 *
 *   decode worker (receiver)                      prefill worker (sender)
 *   kvx_grant_open(pool, blocks, lease)
 *   kvx_grant_ticket() ---- any channel ------->  kvx_stream_open(pool, blocks, ticket)
 *                                                 kvx_stream_layers_ready(0, 1) ...
 *   kvx_grant_wait(layer) <===== the bytes =====  (the engine sends while compute goes on)
 *   kvx_grant_close()                             kvx_stream_wait(), kvx_stream_close()
 *
 * The contract, on every transport:
 *
 *  1. Complete means whole. A layer is reported whole only after all its bytes are in the
 *     receiver's memory and visible to whoever reads it next.
 *  2. No late byte. When kvx_grant_revoke() or kvx_grant_close() has returned, no byte of that
 *     grant lands any more, even if the sender is slow, stopped, cut off or hostile.
 *  3. No endless wait. Every wait has a deadline and every grant a lease. A peer's death is
 *     noticed within two heartbeats.
 *  4. Nothing counted twice, nothing lost. What is sent again after a failure leaves the counters
 *     right; what arrives for a dead grant is reported in the statistics and never credited.
 *  5. A restart is another peer. What was made for an earlier incarnation is refused with an error
 *     that names both.
 *  6. One peer's failure stays its own.
 *  7. Errors explain. Every failure returns a code and leaves a text that says what was tried, on
 *     what, why it failed and what to change.
 *  8. The receiver counts; nobody guesses. Both sides compute the target of each counter from the
 *     plan before the first byte moves, and check that they computed the same plan.
 *
 * Conventions. Functions that can fail return 0 (or a count, where stated) or a negative code of
 * enum kvx_error; kvx_error_text() then holds the explanation. Out-parameters are written only on
 * success. Unless stated otherwise any thread may call any function; one object must not be used
 * while or after it is closed. No function of the library prints, exits or aborts.
 */
#ifndef KVXFER_H
#define KVXFER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define KVX_VERSION "0.1.0"

/* Limits. Slot, layer and unit share a 32-bit immediate (docs/protocol.md), hence the first three.
 */
#define KVX_GRANTS_MAX 4096u         /* grants open at once in one engine */
#define KVX_LAYERS_MAX 511u          /* layers of one pool */
#define KVX_UNITS_MAX 64u            /* units of one layer */
#define KVX_PLANES_MAX 8u            /* planes of one layer */
#define KVX_EXTRA_MAX 4u             /* of them not divided by heads */
#define KVX_SENDERS_MAX 64u          /* that feed one grant */
#define KVX_TAIL_MAX (1u << 20)      /* bytes of a tail */
#define KVX_TABLE_MAX (1u << 24)     /* entries of one block table */
#define KVX_NAME_MAX 63u             /* characters of an engine's name */
#define KVX_ERROR_TEXT_MAX 511u      /* characters of an error's text */
#define KVX_TIMEOUT_MAX_MS 86400000u /* longest deadline and lease: one day */
#define KVX_ALIGN 4u /* blocks, strides and offsets are multiples of this, in bytes */

/* In place of a layer's index: all layers of the request and its tail; its tail. */
#define KVX_ALL_LAYERS UINT32_MAX
#define KVX_TAIL 511u

/*
 * Errors: one closed set. X(name, value, what is broken, text). What is broken: "call" (fix the
 * arguments), "transfer" (this grant or stream has ended; open another), "peer" (the other engine
 * is gone or refuses), "engine" (this process lacks something).
 */
#define KVX_ERROR_TABLE(X)                                                                    \
	X(KVX_E_INVALID, -1, "call", "an argument is not valid")                              \
	X(KVX_E_LIMIT, -2, "call", "a limit of the library would be passed")                  \
	X(KVX_E_BUSY, -3, "call", "the object is in use")                                     \
	X(KVX_E_TICKET, -4, "call", "the ticket is cut short, altered or not a ticket")       \
	X(KVX_E_VERSION, -5, "call", "made by an incompatible version of kvxfer")             \
	X(KVX_E_GEOMETRY, -6, "call", "the two pools do not match")                           \
	X(KVX_E_UNSUPPORTED, -7, "call", "not supported by this build or on this machine")    \
	X(KVX_E_TIMEDOUT, -8, "transfer", "the deadline of the wait has passed")              \
	X(KVX_E_CANCELLED, -9, "transfer", "the sender cancelled the stream")                 \
	X(KVX_E_REVOKED, -10, "transfer", "the receiver revoked the grant")                   \
	X(KVX_E_LEASE, -11, "transfer", "the lease of the grant has ended")                   \
	X(KVX_E_REFUSED, -12, "transfer", "the peer refused")                                 \
	X(KVX_E_PEER_LOST, -13, "peer", "the peer is gone or silent")                         \
	X(KVX_E_PEER_RESTARTED, -14, "peer", "the peer is another incarnation than expected") \
	X(KVX_E_UNREACHABLE, -15, "peer", "no transport reaches the peer")                    \
	X(KVX_E_PROTOCOL, -16, "peer", "the peer broke the protocol")                         \
	X(KVX_E_TRANSPORT, -17, "transfer", "the transport failed")                           \
	X(KVX_E_MEMORY, -18, "engine", "out of memory, address space or locked memory")       \
	X(KVX_E_SYSTEM, -19, "engine", "the operating system refused")                        \
	X(KVX_E_DRAINING, -20, "engine", "the engine is being drained: it takes nothing new") \
	X(KVX_E_DENIED, -21, "peer", "the other side could not prove that it knows the secret")

enum kvx_error {
#define KVX_ERROR_ENUM(name, value, broken, text) name = value,
	KVX_ERROR_TABLE(KVX_ERROR_ENUM)
#undef KVX_ERROR_ENUM
};

/* The short text of a code ("the ticket is ..."), its name ("KVX_E_TICKET") and what is broken
 * ("call", "transfer", "peer", "engine"). Static; never NULL, also for codes that do not exist. */
const char *kvx_strerror(int code);
const char *kvx_error_name(int code);
const char *kvx_error_broken(int code);

/* The explanation of the calling thread's last failed call: at most KVX_ERROR_TEXT_MAX characters,
 * valid until that thread's next failing call. Empty before the first failure. */
const char *kvx_error_text(void);

/* The version of the library that is running, as KVX_VERSION. Static. */
const char *kvx_version(void);

/* ------------------------------------------------------------------------------------ options */

/*
 * Options of an engine, by name: docs/options.md lists them, kvx_option_describe() enumerates
 * them. A new set holds the defaults, overridden by the environment (option heartbeat_ms is
 * KVX_HEARTBEAT_MS). One thread at a time may use a set.
 */
struct kvx_options;

struct kvx_option_info {
	const char *name;    /* "heartbeat_ms" */
	const char *kind;    /* "text", "choice", "number", "bytes", "flag" */
	const char *initial; /* default, as text */
	const char *range;   /* "10..60000", "thread|caller", or "" */
	const char *help;    /* one line */
};

/* The option of that index, counted from 0. Returns 0, or KVX_E_INVALID past the last. The texts
 * are static. */
int kvx_option_describe(uint32_t index, struct kvx_option_info *info);

/* A new set; the caller frees it with kvx_options_free(). Fails with KVX_E_INVALID if a variable
 * of the environment holds a value that its option does not take. */
int kvx_options_new(struct kvx_options **options);
void kvx_options_free(struct kvx_options *options);

/* Sets one option from text: numbers in decimal, bytes with an optional K, M or G (1024), flags as
 * "on" or "off". Fails with KVX_E_INVALID: no such option, or a value that it does not take. */
int kvx_options_set(struct kvx_options *options, const char *name, const char *value);

/* The value of an option as text, valid until the next call on the set; NULL if there is no such
 * option. */
const char *kvx_options_get(struct kvx_options *options, const char *name);

enum kvx_log_level { KVX_LOG_ERROR, KVX_LOG_WARNING, KVX_LOG_INFO, KVX_LOG_DEBUG };

/* Where an engine's log lines go: function(context, level, line); the line has no newline and is
 * valid during the call. Called from the engine's own thread too. NULL (the default): nowhere. */
void kvx_options_log(struct kvx_options *options,
		     void (*function)(void *context, enum kvx_log_level level, const char *line),
		     void *context);

/* ------------------------------------------------------------------------------------- engine */

/*
 * One per process, usually per GPU rank: owns transports, progress and peers. An engine has a name
 * and an incarnation: 64 random bits drawn when it opens.
 *
 * With option progress=thread (the default) the engine runs its own thread. With progress=caller
 * it runs nothing: the caller drives it by kvx_engine_progress(), one thread at a time, and every
 * wait on its objects drives it too, so only that thread may wait, revoke, cancel and close.
 */
struct kvx_engine;

/* Opens an engine. options: NULL for kvx_options_new()'s; not kept. Errors: KVX_E_INVALID (an
 * address that is not one), KVX_E_SYSTEM (port in use, out of descriptors), KVX_E_MEMORY,
 * KVX_E_UNSUPPORTED (a transport that does not exist or cannot work here). */
int kvx_engine_open(const struct kvx_options *options, struct kvx_engine **engine);

/* Ends and frees everything the engine still owns (streams, grants, peers, pools, regions: their
 * handles are void afterwards) and the engine. NULL does nothing. */
void kvx_engine_close(struct kvx_engine *engine);

const char *kvx_engine_name(const struct kvx_engine *engine);
uint64_t kvx_engine_incarnation(const struct kvx_engine *engine);

/* Where peers reach this engine: "transport:address" for each of its transports, best first,
 * separated by commas, as tickets carry it and kvx_peer_connect() takes it. Owned by the engine. */
const char *kvx_engine_address(const struct kvx_engine *engine);

/* progress=caller: does what can be done now and returns how many things were done; 0: nothing, so
 * wait until kvx_engine_fd() is readable or kvx_engine_timeout_ms() has passed, then call again.
 * Never blocks. Fails with KVX_E_INVALID if the engine has its own thread. */
int kvx_engine_progress(struct kvx_engine *engine);

/* progress=caller: a descriptor that polls readable when kvx_engine_progress() has something to
 * do. Owned by the engine. -1 if the engine has its own thread. */
int kvx_engine_fd(const struct kvx_engine *engine);

/* progress=caller: the longest time in ms until kvx_engine_progress() should be called again. */
int kvx_engine_timeout_ms(const struct kvx_engine *engine);

/* What happened since the engine opened. Each figure only grows. */
struct kvx_stats {
	uint64_t bytes_sent;     /* posted to a transport */
	uint64_t bytes_received; /* landed in granted blocks */
	uint64_t slices_sent;    /* pieces contiguous at both ends */
	uint64_t units_sent;     /* of these units_resent again, after a rail failed */
	uint64_t units_resent;
	uint64_t units_received;  /* counted */
	uint64_t units_duplicate; /* arrived again, not counted again */
	uint64_t units_late;      /* for a dead generation: refused, never counted */
	uint64_t layers_whole;
	uint64_t grants_opened;
	uint64_t grants_completed;
	uint64_t grants_failed; /* revoked, lease ended, cancelled, peer lost */
	uint64_t streams_opened;
	uint64_t streams_completed;
	uint64_t streams_failed;
	uint64_t peers_lost;
	uint64_t rails_lost;
	uint64_t protocol_errors; /* links closed because the other side broke the protocol */
	uint64_t progress_ns;     /* time in progress steps that did something */
};
void kvx_engine_stats(const struct kvx_engine *engine, struct kvx_stats *stats);

/* ----------------------------------------------------------------------------- region and pool */

/* Registered memory. */
struct kvx_region;

/* Registers [address, address + bytes) of this process. The memory stays the caller's and must stay
 * mapped until the region is closed. Errors: KVX_E_INVALID (NULL, empty, unaligned, not mapped,
 * overlapping another region), KVX_E_MEMORY (a transport cannot register it; the text says which
 * limit to raise). */
int kvx_region_register(struct kvx_engine *engine, void *address, size_t bytes,
			struct kvx_region **region);

/* Registers memory of a device that is given as a dma-buf: bytes from offset on of the buffer of
 * that descriptor, which are at address, a device's or this process's, for as long as the region is
 * open. The descriptor stays the caller's and may be closed afterwards. This CPU never touches the
 * memory, so only verbs moves it. Errors: as above, and KVX_E_UNSUPPORTED (this engine has no RDMA
 * device).
 */
int kvx_region_register_dmabuf(struct kvx_engine *engine, int fd, uint64_t offset, void *address,
			       size_t bytes, struct kvx_region **region);

/* Allocates and registers memory that processes on the same host can map (read-only), so that shm
 * moves it with one copy and no system call. Zeroed; freed when the region is closed. */
int kvx_region_alloc(struct kvx_engine *engine, size_t bytes, struct kvx_region **region);

/* First byte and size in bytes. */
void *kvx_region_address(const struct kvx_region *region);
size_t kvx_region_bytes(const struct kvx_region *region);

/* Fails with KVX_E_BUSY while a pool lies over it. NULL does nothing. */
int kvx_region_close(struct kvx_region *region);

/* How a block holds its tokens' heads; each head of each token is head_bytes. */
enum kvx_layout {
	KVX_LAYOUT_WHOLE, /* not said: blocks move whole */
	KVX_LAYOUT_HND,   /* [head][token] */
	KVX_LAYOUT_NHD,   /* [token][head] */
};

/* A plane that is not divided by heads, such as an indexer's keys or a state: every rank of a model
 * holds all of it. */
struct kvx_extra {
	uint32_t block_bytes; /* of a block; multiple of KVX_ALIGN; 0: tokens * token_bytes */
	uint32_t token_bytes; /* of a token; multiple of KVX_ALIGN; 0: blocks move whole */
};

/*
 * What a pool holds: so many layers, each of so many planes, each of so many blocks. A zeroed
 * structure with the first five fields set describes blocks that move whole, between pools that are
 * alike in all but the number of blocks. A layout makes blocks divisible: then a request moves
 * between pools that hold other layers, heads or tokens in a block, and what both hold moves. A
 * latent of MLA is one plane of one head of one, in KVX_LAYOUT_NHD.
 *
 * What must be equal at both ends: dtype, model, planes, extra, and heads_total and head_bytes, or
 * block_bytes and block_tokens where blocks move whole. Of two numbers of tokens in a block one
 * must be a multiple of the other.
 */
struct kvx_geometry {
	uint32_t layers;      /* held, 1..KVX_LAYERS_MAX */
	uint32_t planes;      /* 2 for K and V, 1 for fused KV or an MLA latent; with the extra ones
				 1..KVX_PLANES_MAX */
	uint32_t blocks;      /* blocks of each plane of each layer, 1..2^32-1 */
	uint32_t block_bytes; /* of a block in one plane of one layer; multiple of KVX_ALIGN; 0: as
				 the layout says */
	uint32_t block_tokens; /* tokens in a block; 0, only if blocks move whole: not said */
	char dtype[12];        /* free tag, as "bf16"; zero-terminated; empty: not said */
	uint64_t model;        /* a number of the caller's choice for what else must agree; 0 */

	uint32_t layer_first; /* the model's number of layer 0: ranks of a pipeline */

	enum kvx_layout layout;
	uint32_t heads, head_first; /* kv heads held, and the model's number of the first */
	uint32_t heads_total;       /* of the model */
	uint32_t head_bytes;        /* of one token of one head; multiple of KVX_ALIGN */
	uint32_t head_stride;  /* bytes from head to head, and from token to token: multiples */
	uint32_t token_stride; /* of KVX_ALIGN; 0: packed */
	uint32_t plane_stride; /* bytes from plane to plane of a block, not counting extra planes,
				  if they lie side by side in it: multiple of KVX_ALIGN; 0: they do
				  not, or kvx_pool_open() finds out. Where they do so at both ends
				  and all their heads move, they move as one */

	uint32_t extra_planes; /* they follow the others in each layer */
	struct kvx_extra extra[KVX_EXTRA_MAX];
};

/* A number over all that must be equal at both ends, so that a scheduler can tell pools apart that
 * no request can move between. */
uint64_t kvx_geometry_hash(const struct kvx_geometry *geometry);

/* Where the blocks of one plane of one layer lie: block b starts at region + offset + b *
 * block_stride. offset and block_stride in bytes, multiples of KVX_ALIGN; block_stride >=
 * the bytes of a block, or 0 for those. */
struct kvx_tensor {
	struct kvx_region *region;
	uint64_t offset;
	uint64_t block_stride;
};

/* A paged KV cache laid over regions. */
struct kvx_pool;

/* Lays a pool over registered memory. tensors: one for each plane, the extra ones last, of each
 * layer, plane fastest; copied. Errors: KVX_E_INVALID (a tensor that leaves its region, is
 * unaligned, overlaps another or belongs to another engine, or planes that do not lie as
 * plane_stride says), KVX_E_LIMIT. */
int kvx_pool_open(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		  const struct kvx_tensor *tensors, struct kvx_pool **pool);

/* Allocates the memory too, as kvx_region_alloc() does: [layer][plane][block], packed; with a
 * plane_stride [layer][block][plane], the extra planes after that. */
int kvx_pool_alloc(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		   struct kvx_pool **pool);

/* Address of a block; NULL if there is no such layer, plane or block. */
void *kvx_pool_block(const struct kvx_pool *pool, uint32_t layer, uint32_t plane, uint32_t block);

/* Fails with KVX_E_BUSY while a grant or stream of it is open. NULL does nothing. */
int kvx_pool_close(struct kvx_pool *pool);

/* --------------------------------------------------------------------------------------- peer */

/* A remote engine that this one connects to. Streams connect by themselves; a peer handle is for
 * connecting early and for looking. */
struct kvx_peer;

enum kvx_peer_state { KVX_PEER_CONNECTING, KVX_PEER_UP, KVX_PEER_DOWN };

struct kvx_peer_info {
	char name[KVX_NAME_MAX + 1]; /* empty until it was up once */
	uint64_t incarnation;        /* 0 until it was up once */
	enum kvx_peer_state state;
	const char *transport;            /* "shm"; "" while not up; static */
	uint32_t rails;                   /* rails up */
	char why[KVX_ERROR_TEXT_MAX + 1]; /* which transport, why this one, why not the others */
};

/* Begins to connect; kvx_peer_wait() tells the outcome. address: a remote engine's
 * kvx_engine_address(), or parts of it; host names are resolved here and may block. Errors:
 * KVX_E_INVALID (not an address, a name that does not resolve, no transport in common). */
int kvx_peer_connect(struct kvx_engine *engine, const char *address, struct kvx_peer **peer);

/* Waits until the peer is up. Errors: KVX_E_UNREACHABLE, KVX_E_TIMEDOUT, KVX_E_PEER_LOST, ... */
int kvx_peer_wait(struct kvx_peer *peer, uint32_t timeout_ms);
void kvx_peer_info(const struct kvx_peer *peer, struct kvx_peer_info *info);

/* Gives the handle back; the connection stays for the streams that use it. NULL does nothing. */
void kvx_peer_close(struct kvx_peer *peer);

/* -------------------------------------------------------------------------------------- grant */

/* The receiver's permission to write these blocks of its pool, for one request. */
struct kvx_grant;

/* A small buffer that moves after the layers: the first token, logits, a state. */
struct kvx_tail {
	struct kvx_region *region; /* that it lies in; of the pool's engine */
	uint64_t offset;           /* there, in bytes; multiple of KVX_ALIGN */
	uint32_t bytes;            /* multiple of KVX_ALIGN, at most KVX_TAIL_MAX; 0: no tail */
};

/* What is special about a grant; zeroed: nothing. */
struct kvx_grant_options {
	uint32_t tokens; /* of the request, if its last block is not full; 0: all that count blocks
			    hold */
	uint32_t held_blocks; /* the first so many hold their tokens already: nothing lands there,
				 and others may be granted them too; below count */
	uint32_t senders;     /* engines that feed it together, 1..KVX_SENDERS_MAX; 0: one */
	struct kvx_tail tail; /* where the tail lands */
};

/*
 * Grants blocks[0..count) of pool, in the request's order: token t of the request belongs into
 * block t / block_tokens of them, in every layer and plane. options: NULL for none. lease_ms: after
 * that time, 1 to KVX_TIMEOUT_MAX_MS, a grant that is not complete fails with KVX_E_LEASE; a sender
 * that dies before it presented the ticket is not known here, so then it is the lease that ends the
 * wait. The table is copied. No byte moves before all senders have come and together hold each byte
 * once, or several times: then they share it.
 * Errors: KVX_E_INVALID (a block out of range, repeated, or granted to another open grant: the text
 * says which), KVX_E_LIMIT (KVX_GRANTS_MAX, KVX_TABLE_MAX), KVX_E_DRAINING (operate.h; so do
 * kvx_stream_open() and kvx_offer_open()).
 */
int kvx_grant_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		   const struct kvx_grant_options *options, uint32_t lease_ms,
		   struct kvx_grant **grant);

/* Exports the grant as a ticket: opaque bytes for the sender, by any channel. Owned by the grant,
 * valid until it is closed; *bytes receives their number. A ticket serves one stream of each
 * sender. */
const void *kvx_grant_ticket(struct kvx_grant *grant, size_t *bytes);

/*
 * Waits until a layer (0.., KVX_TAIL or KVX_ALL_LAYERS) is whole: returns 0; its bytes are visible
 * to the calling thread. Otherwise KVX_E_TIMEDOUT (the grant lives on; wait again) or the reason
 * why the grant ended: KVX_E_CANCELLED, KVX_E_REVOKED, KVX_E_LEASE, KVX_E_PEER_LOST,
 * KVX_E_TRANSPORT. timeout_ms: 0 to KVX_TIMEOUT_MAX_MS. Layers that were whole before the end stay
 * whole. Until the grant is closed or revoked its layers are to be read only: over verbs, after a
 * rail has failed, the same bytes may land once more (elsewhere they may be written to once the
 * grant is complete).
 */
int kvx_grant_wait(struct kvx_grant *grant, uint32_t layer, uint32_t timeout_ms);

/* Without blocking: 1 the layer is whole, 0 not yet, negative as kvx_grant_wait(). Without any
 * system call. */
int kvx_grant_poll(struct kvx_grant *grant, uint32_t layer);

/* What a mirrored word says of its layer. */
#define KVX_WORD_PENDING 0u
#define KVX_WORD_WHOLE 1u
#define KVX_WORD_FAILED 2u /* the grant has ended without it */

/* For who cannot call kvx_grant_poll(), such as a GPU (kvxfer/cuda.h): sets `words` to
 * KVX_WORD_PENDING, and from then on the engine's thread stores what becomes of layer i into
 * words[i], and of the tail into the word after the last layer's: KVX_WORD_WHOLE after the layer's
 * bytes are visible, or KVX_WORD_FAILED into all that are pending when the grant ends for any other
 * reason. What happened before is stored soon. words: naturally aligned, of the caller, valid until
 * the grant is closed. count: how many there are, at least the pool's layers, and one more with a
 * tail. Once for a grant; any thread. Fails with KVX_E_INVALID. */
int kvx_grant_mirror(struct kvx_grant *grant, uint32_t *words, uint32_t count);

/* Units arrived of a layer (or KVX_TAIL) and the number that makes it whole (0 until all senders
 * were accepted). Fails with KVX_E_INVALID if there is no such layer. */
int kvx_grant_count(const struct kvx_grant *grant, uint32_t layer, uint32_t *arrived,
		    uint32_t *target);

/* An eventfd(2) that becomes readable each time a layer becomes whole and when the grant ends; read
 * 8 bytes to clear it, then poll. Made at the first call, owned by the grant. Fails with
 * KVX_E_SYSTEM. */
int kvx_grant_fd(struct kvx_grant *grant);

/* Ends the grant and fences it: once this returns no byte of it lands any more and the blocks may
 * be reused. The sender is told; timeout_ms bounds how long it may take to drain before the fence
 * is enforced without it (loop, shm and tcp enforce at once; verbs then in the time that the NIC
 * and its driver take). Waits on it end with KVX_E_REVOKED.
 * Returns 0, also if the grant had ended already: the fence holds then too. */
int kvx_grant_revoke(struct kvx_grant *grant, uint32_t timeout_ms);

/* Fences as kvx_grant_revoke(), with option drain_ms, if the grant is not complete, and frees it.
 * NULL does nothing. */
void kvx_grant_close(struct kvx_grant *grant);

/* ------------------------------------------------------------------------------------- stream */

/* The sender's side of a grant: pushes one request's KV, layer by layer. */
struct kvx_stream;

/* What is special about a stream; zeroed: nothing. */
struct kvx_stream_options {
	uint32_t chunk_tokens; /* the prefill computes so many tokens of all layers at a time, so
				  what moves together is cut there; 0: all at once */
	struct kvx_tail tail;  /* of as many bytes as the grant's; of several senders one has it */
};

/*
 * Opens a stream of blocks[0..count) of pool into the grant of a ticket: the request's first token
 * is the first of blocks[0], also where the receiver holds the first blocks already. Returns after
 * local checks; the connection and the receiver's acceptance follow in the background, and their
 * failure is told by kvx_stream_wait(). ticket and blocks are copied. options: NULL for none. The
 * blocks must not change from a layer's ready until it is delivered or the stream is cancelled or
 * closed. Layers that the receiver does not hold count as delivered once it has accepted. Errors:
 * KVX_E_INVALID (blocks out of range, repeated, or not as many as the request's tokens fill),
 * KVX_E_TICKET, KVX_E_VERSION, KVX_E_GEOMETRY (the text holds both), KVX_E_UNREACHABLE (no
 * transport in common).
 */
int kvx_stream_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		    const struct kvx_stream_options *options, const void *ticket,
		    size_t ticket_bytes, struct kvx_stream **stream);

/* Layers first .. first + count - 1 are computed: send them. Lock-free, from any thread; at most
 * one system call, and only when the engine sleeps. Fails with KVX_E_INVALID (no such layer).
 * Telling a layer twice does nothing. */
int kvx_stream_layers_ready(struct kvx_stream *stream, uint32_t first, uint32_t count);

/* The same of the request's first `tokens` tokens only, in all of these layers: chunks of a
 * prefill, in their order. As many as the request has, or more: all. */
int kvx_stream_tokens_ready(struct kvx_stream *stream, uint32_t first, uint32_t count,
			    uint32_t tokens);

/* The tail is there: send it. It arrives after the layers. Fails with KVX_E_INVALID if the stream
 * has none. */
int kvx_stream_tail_ready(struct kvx_stream *stream);

/* In place of kvx_stream_layers_ready(): from now on the engine watches a 32-bit word, naturally
 * aligned, that is incremented once for each layer that is ready, in order, after that layer's
 * bytes are visible to the CPU. The value at this call stands for no layer; an increment by n is n
 * layers; wrapping around is right. The word must stay valid until the stream is closed. Fails with
 * KVX_E_INVALID (NULL, unaligned, a word is watched already). */
int kvx_stream_watch(struct kvx_stream *stream, const uint32_t *word);

/* Waits until a layer (or KVX_TAIL, KVX_ALL_LAYERS) is delivered: the receiver has this sender's
 * share of it whole. Returns 0,
 * KVX_E_TIMEDOUT (the stream lives on), or the reason why it ended: KVX_E_REFUSED, KVX_E_REVOKED,
 * KVX_E_LEASE, KVX_E_CANCELLED, KVX_E_UNREACHABLE, KVX_E_PEER_LOST, KVX_E_PEER_RESTARTED,
 * KVX_E_GEOMETRY, KVX_E_TRANSPORT. */
int kvx_stream_wait(struct kvx_stream *stream, uint32_t layer, uint32_t timeout_ms);

/* Without blocking: 1 delivered, 0 not yet, negative as kvx_stream_wait(). */
int kvx_stream_poll(struct kvx_stream *stream, uint32_t layer);

/* As kvx_grant_fd(): readable when layers were delivered and when the stream ends. */
int kvx_stream_fd(struct kvx_stream *stream);

/* Which transport the stream uses and why, and why not the others; slices, units and bytes of its
 * plan. At most size - 1 characters and a zero go to text. Returns the length of the whole text. */
size_t kvx_stream_explain(const struct kvx_stream *stream, char *text, size_t size);

/* Ends the stream: once this returns the engine and its hardware read its blocks no more and they
 * may be reused. The receiver's waits end with KVX_E_CANCELLED; one that was not reached yet does
 * not learn of it, and its lease ends its waits. Does nothing to a stream that has ended. */
void kvx_stream_cancel(struct kvx_stream *stream);

/* Cancels if the stream is not complete, and frees it. NULL does nothing. */
void kvx_stream_close(struct kvx_stream *stream);

/* --------------------------------------------------------------------------------------- pull */

/*
 * The mirror image: the sender offers blocks, and the receiver takes them when it wants them.
 *
 *   prefill worker (sender)                       decode worker (receiver)
 *   kvx_offer_open(pool, blocks, lease)
 *   kvx_offer_ticket() ---- any channel ------->  kvx_grant_open(pool, blocks, lease)
 *   kvx_stream_layers_ready() ...                 kvx_grant_pull(ticket)
 *                           the bytes =========>  kvx_grant_wait(layer)
 *   kvx_stream_wait(), kvx_stream_close()         kvx_grant_close()
 *
 * Both ends are a stream and a grant like any other, with the same waits, counters and errors.
 */

/* Offers blocks[0..count) of pool. The stream waits until one grant pulls it; layers may get ready
 * before. lease_ms: after that time, 1 to KVX_TIMEOUT_MAX_MS, an offer that was not pulled fails
 * with KVX_E_LEASE; from then on it is the grant's lease that counts. Errors as kvx_stream_open(),
 * and those of the ticket of the grant by kvx_stream_wait(). */
int kvx_offer_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		   const struct kvx_stream_options *options, uint32_t lease_ms,
		   struct kvx_stream **stream);

/* Exports the offer as a ticket: opaque bytes for the receiver, by any channel. Owned by the
 * stream, valid until it is closed; *bytes receives their number. NULL for a stream that was not
 * offered. */
const void *kvx_offer_ticket(const struct kvx_stream *stream, size_t *bytes);

/*
 * Has the offer of a ticket feed the grant: of several senders each one's, one after another.
 * Returns after local checks; a failure ends the grant. The grant's request is the offered one's
 * begin: of as many tokens or fewer. When the grant ends or is closed the offer ends too, at once.
 * Errors: KVX_E_TICKET, KVX_E_VERSION, KVX_E_GEOMETRY, KVX_E_INVALID (more tokens than offered,
 * another tail), KVX_E_LIMIT (a block table too long to be sent).
 */
int kvx_grant_pull(struct kvx_grant *grant, const void *ticket, size_t ticket_bytes);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
