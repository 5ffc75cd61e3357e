/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of GPUs, tried as an engine uses it: registered with RDMA devices, and copied. */
#include "base/error.h"
#include "doctor/checkup.h"
#include "memory/kind.h"
#include "verbs/doctor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MODEL_MAX 63u
#define PIECE_BYTES (UINT64_C(2) << 20) /* what a driver makes of smaller ones, too */
#define COPIED_BYTES (UINT64_C(64) << 10)
#define LOOK_NS 50000 /* between two looks whether copies are done */

struct gpu {
	struct kvx_checkup *checkup;
	const struct kvx_memory_kind *kind;
	uint32_t number;
	char name[KVX_PCI_TEXT_BYTES + MODEL_MAX + 32]; /* "cuda:0 (NVIDIA H100, 0000:19:00.0)" */
	void *memory;                                   /* PIECE_BYTES of it */
	char no_dmabuf[KVX_FINDING_TEXT_MAX + 1];       /* why the driver gives none, or "" */
	uint32_t tried, reached;                        /* RDMA devices */
};

bool kvx_checkup_has_peermem(const struct kvx_checkup *checkup)
{
	return kvx_checkup_has(checkup, "/sys/module/nvidia_peermem") ||
	       kvx_checkup_has(checkup, "/sys/module/nv_peer_mem");
}

/* ------------------------------------------------------------------------------- registration */

static void take_reach(void *context, const struct kvx_verbs_reach *reach)
{
	struct gpu *gpu = context;
	const char *no_dmabuf = gpu->no_dmabuf[0] ? gpu->no_dmabuf : reach->dmabuf;

	gpu->tried++;
	gpu->reached += reach->by_dmabuf || reach->by_address;
	if (reach->by_dmabuf)
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_OK, "gpudirect", "",
				 "%s: %s reaches its memory by dma-buf%s%s", gpu->name, reach->name,
				 reach->by_address ? ", and by its address (peer memory)" : "",
				 reach->is_windowless ? "; without memory windows, so that a fence "
							"cuts queue pairs"
						      : "");
	else if (reach->by_address)
		kvx_checkup_tell(
			gpu->checkup, KVX_SEVERITY_NOTE, "gpudirect",
			"nothing, as long as that module is kept up with kernel and driver",
			"%s: %s reaches its memory by its address (peer memory), and not "
			"by dma-buf: %s",
			gpu->name, reach->name, no_dmabuf);
	else
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_WARNING, "gpudirect",
				 "use the open kernel modules of NVIDIA's driver (515 or later) "
				 "with Linux 5.12 or later and an RDMA driver that takes dma-buf "
				 "(mlx5), or modprobe nvidia_peermem",
				 "%s: %s does not reach its memory, whose bytes are staged; by "
				 "dma-buf: %s; by its address: %s (nvidia_peermem is %s)",
				 gpu->name, reach->name, no_dmabuf, reach->address,
				 kvx_checkup_has_peermem(gpu->checkup) ? "loaded" : "not loaded");
}

static void try_registration(struct gpu *gpu)
{
	struct kvx_verbs_piece piece = {.address = gpu->memory, .bytes = PIECE_BYTES, .dmabuf = -1};

	if (gpu->kind->export_dmabuf(gpu->memory, PIECE_BYTES, &piece.dmabuf,
				     &piece.dmabuf_offset)) {
		piece.dmabuf = -1;
		snprintf(gpu->no_dmabuf, sizeof(gpu->no_dmabuf), "%s", kvx_error_text());
	}
	/* Why devices cannot be had is told by the check of those. */
	(void)kvx_verbs_examine_piece(gpu->checkup->options, &piece, take_reach, gpu);
	if (piece.dmabuf >= 0)
		close(piece.dmabuf);
	gpu->checkup->has_tried_gpus |= gpu->tried > 0;
}

/* What a NIC wrote has to be visible before it is counted. */
static void check_order(const struct gpu *gpu)
{
	bool needed = false;
	int error = gpu->kind->needs_flush(gpu->number, &needed);

	if (!error && needed)
		error = gpu->kind->flush(gpu->number);
	if (error)
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_WARNING, "gpudirect",
				 "leave verbs out of option transports where memory of this GPU "
				 "receives, or what the text says",
				 "%s: no bytes of a NIC can be received: %s", gpu->name,
				 kvx_error_text());
	else if (needed)
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_OK, "gpudirect", "",
				 "%s: what a NIC writes is flushed for each layer, as the GPU does "
				 "not order it; the driver can",
				 gpu->name);
	else
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_OK, "gpudirect", "",
				 "%s: what a NIC writes is ordered by the GPU, and needs no flush",
				 gpu->name);
}

/* ------------------------------------------------------------------------------------- copies */

/* A copy, and its end. */
static int copy(const struct gpu *gpu, struct kvx_copier *copier, void *to, const void *from)
{
	const struct kvx_copy one = {.to = to, .from = from, .bytes = COPIED_BYTES};
	uint64_t number, done = 0;
	int error = gpu->kind->copy(copier, &one, 1, &number);

	while (!error && done < number) {
		error = gpu->kind->copied(copier, &done);
		if (!error && done < number)
			nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
	}
	return error;
}

/* Out of the first half of host memory to the GPU, and from there to the other half. */
static int copy_both_ways(const struct gpu *gpu, struct kvx_copier *copier, char *memory)
{
	for (size_t i = 0; i < COPIED_BYTES; i++)
		memory[i] = (char)(i * 2654435761u >> 13);
	int error = gpu->kind->pin(copier, memory, 2 * COPIED_BYTES);
	if (error)
		return error;
	error = copy(gpu, copier, gpu->memory, memory);
	if (!error)
		error = copy(gpu, copier, memory + COPIED_BYTES, gpu->memory);
	gpu->kind->unpin(copier, memory);
	if (!error && memcmp(memory, memory + COPIED_BYTES, COPIED_BYTES) != 0)
		return kvx_fail(KVX_E_TRANSPORT,
				"what was copied to it and back is not what it was; see the "
				"kernel's log for errors of the GPU");
	return error;
}

static int try_copies(const struct gpu *gpu)
{
	struct kvx_copier *copier;
	void *memory = mmap(NULL, 2 * COPIED_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return kvx_fail(KVX_E_MEMORY, "no memory to copy: %s", strerror(errno));
	int error = gpu->kind->open(gpu->number, &copier);
	if (!error) {
		error = copy_both_ways(gpu, copier, memory);
		gpu->kind->close(copier);
	}
	munmap(memory, 2 * COPIED_BYTES);
	return error;
}

static void check_copies(const struct gpu *gpu)
{
	const char *whose = gpu->reached ? "shm and tcp"
			    : gpu->tried ? "all transports"
					 : "shm and tcp, which are all without an RDMA device";

	if (try_copies(gpu))
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_WARNING, "gpudirect",
				 "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=), or do what the "
				 "text says; an engine does not take memory of this GPU as it is",
				 "%s: its bytes cannot be staged: %s", gpu->name, kvx_error_text());
	else
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_OK, "gpudirect", "",
				 "%s: bytes are staged in pinned memory of the host for %s (tried: "
				 "64 KiB each way)",
				 gpu->name, whose);
}

/* --------------------------------------------------------------------------------- all of them
 */

static int open_gpu(struct gpu *gpu)
{
	char pci[KVX_PCI_TEXT_BYTES], model[MODEL_MAX + 1];
	int error = gpu->kind->describe(gpu->number, pci, model, sizeof(model));

	if (error)
		return error;
	snprintf(gpu->name, sizeof(gpu->name), "%s:%u (%s, %s)", gpu->kind->name, gpu->number,
		 model, pci);
	return gpu->kind->alloc(gpu->number, PIECE_BYTES, &gpu->memory);
}

static void check_gpu(struct gpu *gpu)
{
	if (open_gpu(gpu)) {
		kvx_checkup_tell(gpu->checkup, KVX_SEVERITY_WARNING, "gpudirect",
				 "do what the text says, or hide the GPU (CUDA_VISIBLE_DEVICES)",
				 "memory of a GPU cannot be tried: %s", kvx_error_text());
		return;
	}
	try_registration(gpu);
	if (gpu->tried)
		check_order(gpu);
	check_copies(gpu);
	gpu->kind->free(gpu->number, gpu->memory);
}

uint32_t kvx_check_gpu_memory(struct kvx_checkup *checkup, char *why, size_t size)
{
	const struct kvx_memory_kind *kind = &kvx_memory_cuda;
	uint32_t count;

	if (kind->count(&count)) {
		snprintf(why, size, "%s", kvx_error_text());
		return 0;
	}
	for (uint32_t i = 0; i < count; i++)
		check_gpu(&(struct gpu){.checkup = checkup, .kind = kind, .number = i});
	return count;
}
