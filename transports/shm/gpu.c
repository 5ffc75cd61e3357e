/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The medium of cuda_ipc: the sender's memory is opened by a handle, once for each GPU here that
 * copies out of it, and the copies are carried out by the GPU whose memory they write, in order. It
 * stays open until the sender forgets it or the link ends, and nothing that copies out of it is
 * under way. Memory of this process needs no handle.
 */
#include "base/clock.h"
#include "base/error.h"
#include "memory/kind.h"
#include "shm.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COPIERS_MAX 64u /* GPUs of one engine */

static_assert(KVX_LANE_PIECES_MAX <= KVX_COPIES_MAX, "pieces of a call are one call of copy()");

/* Of a GPU. Made with the first memory there that is attached, closed with the transport. */
struct gpu_copier {
	struct kvx_lane_copier lane; /* first */
	uint32_t device;
	struct kvx_copier *queue;
	uint64_t begun; /* calls */
	bool failed;    /* nothing is copied any more */
};

/* Memory of this process that is sent from or to. */
struct gpu_memory {
	struct kvx_list entry;
	const struct kvx_memory *memory;
	struct gpu_copier *copier;
	uint8_t handle[KVX_HANDLE_BYTES];
	uint64_t offset;      /* there, in bytes */
	uint32_t links;       /* the worker's: peers that may have it open, */
	int64_t forgotten_ns; /* and since when they should not */
};

/* Any thread adds and removes memories, and adds copiers, of which none is taken away before the
 * end. */
struct shm_gpu {
	pthread_mutex_t attaching; /* of those who add copiers; the worker never takes it */
	pthread_mutex_t mutex;     /* of the memories; held for moments */
	struct kvx_list memories;
	_Atomic uint32_t copier_count; /* stored after the copier */
	struct gpu_copier *copiers[COPIERS_MAX];
};

/* A GPU here that has the sender's memory open. */
struct gpu_opened {
	uint32_t device;
	char *base;
	struct kvx_lane_mark last; /* that copies out of it */
};

/* What the sender says of a memory. */
struct shm_import {
	uint32_t device;  /* as the sender counts */
	uint64_t address; /* in its process */
	uint8_t handle[KVX_HANDLE_BYTES];
	uint64_t offset;
	uint32_t count;
	struct gpu_opened *opened;
};

static struct shm_gpu *gpu_of(const struct shm_link *link)
{
	return link->lane.link.transport->gpu;
}

static bool is_own_process(const struct shm_link *link)
{
	return link->peer_pid == getpid();
}

/* ------------------------------------------------------------------------- memory of this process
 */

/* The attaching thread's: of those that there are, or a new one. */
static int copier_find(struct shm_gpu *gpu, uint32_t device, struct gpu_copier **copier)
{
	uint32_t count = atomic_load_explicit(&gpu->copier_count, memory_order_relaxed);

	for (uint32_t i = 0; i < count; i++) {
		*copier = gpu->copiers[i];
		if ((*copier)->device == device)
			return 0;
	}
	struct gpu_copier *made = count < COPIERS_MAX ? calloc(1, sizeof(*made)) : NULL;
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "cuda_ipc: out of memory, or more than %u GPUs",
				COPIERS_MAX);
	made->device = device;
	int error = kvx_memory_cuda.open(device, &made->queue);
	if (error) {
		free(made);
		return error;
	}
	*copier = gpu->copiers[count] = made;
	atomic_store_explicit(&gpu->copier_count, count + 1, memory_order_release);
	return 0;
}

static int attach(struct shm_gpu *gpu, struct gpu_memory *made)
{
	const struct kvx_memory *memory = made->memory;
	uint32_t device;
	int error = kvx_memory_cuda.check(memory->address, memory->bytes, &device);

	if (!error)
		error = kvx_memory_cuda.share(memory->address, memory->bytes, made->handle,
					      &made->offset);
	return error ? error : copier_find(gpu, device, &made->copier);
}

int kvx_shm_gpu_attach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	struct shm_gpu *gpu = transport->gpu;
	struct gpu_memory *made = calloc(1, sizeof(*made));

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "cuda_ipc: out of memory");
	made->memory = memory;
	pthread_mutex_lock(&gpu->attaching);
	int error = attach(gpu, made);
	pthread_mutex_unlock(&gpu->attaching);
	if (error) {
		free(made);
		return error;
	}
	pthread_mutex_lock(&gpu->mutex);
	kvx_list_append(&gpu->memories, &made->entry);
	pthread_mutex_unlock(&gpu->mutex);
	memory->registered[transport->context.index] = made;
	return 0;
}

void kvx_shm_gpu_detach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	struct gpu_memory *made = memory->registered[transport->context.index];

	pthread_mutex_lock(&transport->gpu->mutex);
	kvx_list_remove(&made->entry);
	pthread_mutex_unlock(&transport->gpu->mutex);
	free(made);
	memory->registered[transport->context.index] = NULL;
}

bool kvx_shm_gpu_forgotten(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	struct gpu_memory *made = memory->registered[transport->context.index];
	int64_t now_ns = kvx_now_ns();

	if (!made->forgotten_ns)
		made->forgotten_ns = now_ns;
	return !made->links ||
	       now_ns - made->forgotten_ns >
		       (int64_t)kvx_option(transport->context.options, drain_ms) * KVX_NS_PER_MS;
}

/* The worker: the memory that holds an address, or is of that index. */
static struct gpu_memory *memory_find(struct shm_gpu *gpu, const char *address, uint32_t index)
{
	struct gpu_memory *found = NULL;
	struct kvx_list *entry, *following;

	pthread_mutex_lock(&gpu->mutex);
	kvx_list_for_each (entry, following, &gpu->memories) {
		struct gpu_memory *known = kvx_container_of(entry, struct gpu_memory, entry);
		const struct kvx_memory *memory = known->memory;
		if (address ? address >= memory->address &&
				      address < memory->address + memory->bytes
			    : memory->index == index)
			found = known;
	}
	pthread_mutex_unlock(&gpu->mutex);
	return found;
}

/* The peer may have it open, or has closed it. What was detached meanwhile waits for nobody. */
static void gpu_count(struct shm_link *link, uint32_t index, int change)
{
	struct gpu_memory *known = memory_find(gpu_of(link), NULL, index);

	if (known)
		known->links += (uint32_t)change;
}

/* --------------------------------------------------------------------------------------- packets
 */

static void put_memory(struct kvx_writer *writer, const struct gpu_memory *memory)
{
	kvx_put_u32(writer, memory->copier->device);
	kvx_put_u64(writer, (uintptr_t)memory->memory->address);
	kvx_put_bytes(writer, memory->handle, sizeof(memory->handle));
	kvx_put_u64(writer, memory->offset);
}

static void get_memory(struct kvx_reader *reader, struct shm_import *import)
{
	import->device = kvx_get_u32(reader);
	import->address = kvx_get_u64(reader);
	kvx_get_bytes(reader, import->handle, sizeof(import->handle));
	import->offset = kvx_get_u64(reader);
}

/* ------------------------------------------------------------------------------- the sender's
 * memory */

static int import_open(const struct shm_link *link, const struct shm_import *import, uint64_t bytes,
		       uint32_t device, char **base)
{
	if (!is_own_process(link))
		return import->offset > UINT64_MAX - bytes
			       ? kvx_fail(KVX_E_PROTOCOL, "cuda_ipc: impossible memory")
			       : kvx_memory_cuda.reach(device, import->handle,
						       import->offset + bytes, base);
	if (import->device != device)
		return kvx_fail(KVX_E_TRANSPORT,
				"cuda_ipc: memory of cuda:%u and of cuda:%u in one process; use "
				"transport loop there",
				import->device, device);
	*base = (char *)(uintptr_t)(import->address - import->offset);
	return 0;
}

static void import_close(const struct shm_link *link, const struct gpu_opened *opened)
{
	if (!is_own_process(link))
		kvx_memory_cuda.leave(opened->device, opened->base);
}

/* A GPU here opens it if it has not; NULL after kvx_lane_fail(). */
static struct gpu_opened *opened_by(struct shm_link *link, const struct shm_memory *memory,
				    uint32_t device)
{
	struct shm_import *import = memory->import;
	char *base;

	for (uint32_t i = 0; i < import->count; i++)
		if (import->opened[i].device == device)
			return &import->opened[i];
	void *grown = realloc(import->opened, (import->count + 1) * sizeof(*import->opened));
	if (!grown) {
		kvx_lane_fail(&link->lane, KVX_E_MEMORY, "cuda_ipc: out of memory");
		return NULL;
	}
	import->opened = grown;
	int error = import_open(link, import, memory->bytes, device, &base);
	if (error) {
		kvx_lane_fail(&link->lane, error,
			      "cuda_ipc: memory of process %d: %s; use transport shm",
			      link->peer_pid, kvx_error_text());
		return NULL;
	}
	import->opened[import->count] = (struct gpu_opened){.device = device, .base = base};
	return &import->opened[import->count++];
}

static bool gpu_is_idle(const struct shm_memory *memory)
{
	const struct shm_import *import = memory->import;

	for (uint32_t i = 0; import && i < import->count; i++) {
		const struct kvx_lane_mark *last = &import->opened[i].last;
		if (last->copier && last->copier->done < last->number)
			return false;
	}
	return true;
}

static void gpu_drop(struct shm_link *link, struct shm_memory *memory)
{
	struct shm_import *import = memory->import;

	for (uint32_t i = 0; import && i < import->count; i++)
		import_close(link, &import->opened[i]);
	if (import)
		free(import->opened);
	free(import);
	memory->import = NULL;
}

static bool gpu_learn(struct shm_link *link, struct shm_memory *memory, struct kvx_reader *reader,
		      int fd)
{
	struct shm_import *import = calloc(1, sizeof(*import));

	(void)fd;
	if (!import) {
		kvx_lane_fail(&link->lane, KVX_E_MEMORY, "cuda_ipc: out of memory");
		return false;
	}
	get_memory(reader, import);
	if (reader->failed) {
		free(import);
		kvx_shm_announced_impossible(link);
		return false;
	}
	memory->import = import;
	return true;
}

static bool gpu_announce(struct shm_link *link, const struct kvx_memory *memory,
			 struct shm_packet *packet, struct kvx_writer *writer)
{
	(void)packet;
	put_memory(writer, memory->registered[link->lane.context->index]);
	return true;
}

/* --------------------------------------------------------------------------------------- greeting
 */

/* Some memory of this process, for the peer to try. */
static int gpu_greet(struct shm_link *link, struct kvx_writer *writer)
{
	struct shm_gpu *gpu = gpu_of(link);
	int error = 0;

	pthread_mutex_lock(&gpu->mutex);
	if (kvx_list_empty(&gpu->memories))
		error = KVX_E_UNREACHABLE;
	else
		put_memory(writer, kvx_container_of(gpu->memories.next, struct gpu_memory, entry));
	pthread_mutex_unlock(&gpu->mutex);
	return error ? kvx_fail(error, "cuda_ipc: this engine has no GPU memory that other "
				       "processes could open")
		     : 0;
}

/* Whether each GPU whose memory is here can open the peer's memory. */
static int gpu_greeted(struct shm_link *link, struct kvx_reader *reader)
{
	struct shm_gpu *gpu = gpu_of(link);
	uint32_t count = atomic_load_explicit(&gpu->copier_count, memory_order_acquire);
	struct shm_import import = {0};
	int error = 0;

	get_memory(reader, &import);
	if (reader->failed)
		return kvx_fail(KVX_E_PROTOCOL, "cuda_ipc: process %d does not speak kvxfer",
				link->peer_pid);
	if (!count)
		return kvx_fail(KVX_E_UNREACHABLE,
				"cuda_ipc: process %d has no GPU memory for others to write to",
				getpid());
	for (uint32_t i = 0; i < count && !error; i++) {
		struct gpu_opened opened = {.device = gpu->copiers[i]->device};
		error = import_open(link, &import, 1, opened.device, &opened.base);
		if (!error)
			import_close(link, &opened);
	}
	return error;
}

/* ----------------------------------------------------------------------------------------- copies
 */

static bool uses(const struct kvx_lane *lane, const struct gpu_copier *copier)
{
	for (uint32_t i = lane->taken_head; i != lane->taken_tail; i++)
		if (lane->taken[i % KVX_LANE_TAKEN_MAX].mark.copier == &copier->lane)
			return true;
	return false;
}

/* It writes nothing any more, and what it was to write does not count: links that wait for it
 * fail. */
static void copier_failed(struct kvx_transport *transport, struct gpu_copier *copier)
{
	struct kvx_list *entry, *following;

	copier->failed = true;
	copier->lane.done = UINT64_MAX;
	kvx_list_for_each (entry, following, &transport->lanes) {
		struct kvx_lane *lane = kvx_container_of(entry, struct kvx_lane, entry);
		if (uses(lane, copier))
			kvx_lane_fail(lane, KVX_E_TRANSPORT, "cuda_ipc: %s", kvx_error_text());
	}
}

static int fail_begin(struct shm_link *link, struct gpu_copier *copier)
{
	kvx_lane_fail(&link->lane, KVX_E_TRANSPORT, "cuda_ipc: %s", kvx_error_text());
	copier_failed(link->lane.link.transport, copier);
	return EIO;
}

/* All pieces lie in one GPU's memory here. */
static int gpu_begin(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count,
		     struct kvx_lane_mark *mark)
{
	struct shm_link *link = (struct shm_link *)lane;
	struct gpu_copier *copier = memory_find(gpu_of(link), pieces[0].to, 0)->copier;
	struct kvx_copy copies[KVX_LANE_PIECES_MAX];
	struct kvx_lane_mark begun = {&copier->lane, copier->begun + 1};

	for (uint32_t i = 0; i < count; i++) {
		const struct kvx_lane_piece *piece = &pieces[i];
		const struct shm_memory *memory =
			kvx_shm_memory_find(&link->memories, piece->memory);
		struct gpu_opened *opened = opened_by(link, memory, copier->device);
		if (!opened)
			return EIO;
		opened->last = begun;
		copies[i] = (struct kvx_copy){
			piece->to, opened->base + memory->import->offset + (uintptr_t)piece->from,
			piece->bytes};
	}
	if (kvx_memory_cuda.copy(copier->queue, copies, count, &copier->begun))
		return fail_begin(link, copier);
	*mark = begun;
	return 0;
}

void kvx_shm_gpu_progress(struct kvx_transport *transport)
{
	struct shm_gpu *gpu = transport->gpu;
	uint32_t count = atomic_load_explicit(&gpu->copier_count, memory_order_acquire);

	for (uint32_t i = 0; i < count; i++) {
		struct gpu_copier *copier = gpu->copiers[i];
		if (!copier->failed && copier->lane.done < copier->begun &&
		    kvx_memory_cuda.copied(copier->queue, &copier->lane.done))
			copier_failed(transport, copier);
	}
}

/* -------------------------------------------------------------------------------------- transport
 */

int kvx_shm_gpu_open(struct kvx_transport *transport)
{
	struct shm_gpu *gpu = calloc(1, sizeof(*gpu));

	if (!gpu)
		return kvx_fail(KVX_E_MEMORY, "cuda_ipc: out of memory");
	pthread_mutex_init(&gpu->attaching, NULL);
	pthread_mutex_init(&gpu->mutex, NULL);
	kvx_list_init(&gpu->memories);
	transport->gpu = gpu;
	return 0;
}

void kvx_shm_gpu_stop(struct kvx_transport *transport)
{
	struct shm_gpu *gpu = transport->gpu;

	for (uint32_t i = 0; i < gpu->copier_count; i++) {
		kvx_memory_cuda.close(gpu->copiers[i]->queue);
		gpu->copiers[i]->lane.done = UINT64_MAX;
	}
}

void kvx_shm_gpu_close(struct kvx_transport *transport)
{
	struct shm_gpu *gpu = transport->gpu;

	for (uint32_t i = 0; i < gpu->copier_count; i++)
		free(gpu->copiers[i]);
	pthread_mutex_destroy(&gpu->attaching);
	pthread_mutex_destroy(&gpu->mutex);
	free(gpu);
}

const struct shm_medium kvx_shm_gpu = {
	.ops = &kvx_cuda_ipc_transport,
	.lane =
		{
			.resolve = kvx_shm_resolve,
			.begin = gpu_begin,
			.bell = kvx_shm_bell,
			.silence = kvx_shm_silence,
		},
	.magic = UINT64_C(0x6370692d7866766b), /* "kvxf-ipc" */
	.greet = gpu_greet,
	.greeted = gpu_greeted,
	.announce = gpu_announce,
	.count = gpu_count,
	.learn = gpu_learn,
	.drop = gpu_drop,
	.is_idle = gpu_is_idle,
};
