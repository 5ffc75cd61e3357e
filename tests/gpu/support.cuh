/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs that need a GPU share: errors that say where, two processes, memory of a device and
 * a pool over it.
 *
 * The process that is started is the receiver; it starts itself once more, before it touches CUDA,
 * as the sender. The two talk in packets over a socket. Every wait has a limit, and an alarm ends a
 * process that waits all the same.
 */
#ifndef GPU_SUPPORT_CUH
#define GPU_SUPPORT_CUH

#include <kvxfer/cuda.h>

#include <cuda.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define EXIT_SKIPPED 77 /* the last line says why */
#define WAIT_MS 60000u  /* for what should come at once */
#define PACKET_MAX 65536u

/* Each prints what failed, where and why, and ends the process. */
#define check_cuda(call) cuda_expect((call), #call, __FILE__, __LINE__)
#define check_cu(call) cu_expect((call), #call, __FILE__, __LINE__)
#define check_kvx(call) kvx_expect((call), #call, __FILE__, __LINE__)
#define check_true(condition, ...)                                \
	do {                                                      \
		if (!(condition))                                 \
			give_up(__FILE__, __LINE__, __VA_ARGS__); \
	} while (0)

[[noreturn]] void give_up(const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
[[noreturn]] void skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cuda_expect(cudaError_t error, const char *call, const char *file, int line);
void cu_expect(CUresult result, const char *call, const char *file, int line);
void kvx_expect(int error, const char *call, const char *file, int line);

/* What the process does now, for the message of the alarm. text: constant. */
void phase(const char *text);

int64_t clock_ns();
void sleep_ms(uint32_t ms);

/* ------------------------------------------------------------------------------ two processes */

struct peer {
	int fd;
	pid_t pid; /* the sender's; 0 in the sender */
};

/* Starts the sender, or in the sender finds the receiver. limit_s: of each process's alarm. To be
 * called first. */
void peer_start(struct peer *peer, char **argv, unsigned limit_s);

void peer_send(const struct peer *peer, const void *packet, size_t bytes);

/* Returns the packet's size. When the other process has ended this one ends as it did: a skip is a
 * skip, all else is a failure. */
size_t peer_receive(const struct peer *peer, void *packet, size_t size);

/* Packets of one number. */
void peer_tell(const struct peer *peer, int64_t number);
int64_t peer_hear(const struct peer *peer);

/* Waits until the other process has come here too. */
void peer_meet(const struct peer *peer);

void peer_kill(const struct peer *peer);

/* The receiver, at the end: the sender has to end well. */
void peer_finish(const struct peer *peer);

/* ---------------------------------------------------------------------------- device and pool */

/* Of the request's tensors: [layer][plane][block], packed. blocks is a prime (see cache.cuh). */
struct shape {
	uint32_t layers, planes, blocks, block_bytes;
	uint32_t count; /* blocks of one request */
};

static inline uint64_t request_bytes(const struct shape *shape)
{
	return (uint64_t)shape->layers * shape->planes * shape->count * shape->block_bytes;
}

/* One end of the transfer. */
struct side {
	const char *transport, *memory;
	struct kvx_engine *engine;
	struct kvx_pool *pool;
	struct shape shape;
	void *address; /* of the pool's memory */
	cudaStream_t stream;
};

/* memory: "malloc", "vmm", "async", or "host" for the engine's own. Skips where the device has no
 * such memory, or the engine leaves cuda_ipc out. */
void side_open(struct side *side, int device, const char *transport, const char *memory,
	       const struct shape *shape);
void side_close(struct side *side);

/* Returns if there is no error. One that says that the transport does not take this memory is a
 * skip, but not of the common kinds. */
void side_expect(const struct side *side, int error, const char *call, const char *file, int line);
#define check_side(side, call) side_expect((side), (call), #call, __FILE__, __LINE__)

/* Whether a stream of CUDA has nothing left to do; an error ends the process. */
bool stream_is_done(cudaStream_t stream, const char *what);

/* Waits for a stream of CUDA, up to limit_ms, without holding a lock of the driver. */
void stream_finish(cudaStream_t stream, uint32_t limit_ms, const char *what);

#endif
