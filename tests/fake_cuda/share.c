/* SPDX-License-Identifier: Apache-2.0 */
/* Device memory for others: another process, or another device's driver. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x66616b6563756461u
#define PATH_MAX_BYTES 64
#define BLOCK_ALIGNMENT (UINT64_C(2) << 20)

/* --- to another process --- */

/* What a handle holds. The file is opened by way of the process that has it. */
struct ticket {
	uint64_t magic;
	struct fake_file file;
	uint64_t bytes, offset;
	int32_t process, fd;
};

_Static_assert(sizeof(struct ticket) <= KVX_CU_IPC_HANDLE_BYTES, "the ticket fits the handle");

static bool identify(int fd, struct fake_file *file)
{
	struct stat stat;

	if (fstat(fd, &stat))
		return false;
	file->device = stat.st_dev;
	file->inode = stat.st_ino;
	return true;
}

static bool is_same(const struct fake_file *file, const struct fake_file *other)
{
	return file->device == other->device && file->inode == other->inode;
}

EXPORT enum kvx_cu_result cuIpcGetMemHandle(struct kvx_cu_ipc_handle *handle, kvx_cu_ptr address)
{
	struct ticket ticket = {.magic = MAGIC, .process = getpid()};
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_find(address);
	if (!range || range->kind != FAKE_ALLOCATED || !identify(range->fd, &ticket.file))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (!fake_option(FAKE_ipc))
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	ticket.bytes = range->bytes;
	ticket.offset = range->base - (uintptr_t)range->map;
	ticket.fd = range->fd;
	memset(handle, 0, sizeof(*handle));
	memcpy(handle, &ticket, sizeof(ticket));
	return fake_leave(KVX_CU_SUCCESS);
}

/* The handle may be of a process that is gone, or of memory that is. */
static enum kvx_cu_result open_file(const struct ticket *ticket, struct fake_range *range)
{
	char path[PATH_MAX_BYTES];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", ticket->process, ticket->fd);
	range->fd = open(path, O_RDWR | O_CLOEXEC);
	if (range->fd < 0 || !identify(range->fd, &range->file) ||
	    !is_same(&range->file, &ticket->file))
		return KVX_CU_ERROR_INVALID_VALUE;
	return fake_range_map(range, ticket->bytes + ticket->offset, BLOCK_ALIGNMENT);
}

static enum kvx_cu_result import(struct kvx_cu_context *context, const struct ticket *ticket,
				 kvx_cu_ptr *address)
{
	struct fake_range *range = fake_range_add(context, FAKE_IMPORTED);
	enum kvx_cu_result result;

	if (!range)
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	result = open_file(ticket, range);
	if (result) {
		fake_range_remove(range);
		return result;
	}
	range->base = (uintptr_t)range->map + ticket->offset;
	range->view = range->view_map + ticket->offset;
	range->bytes = ticket->bytes;
	range->opened = 1;
	*address = range->base;
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuIpcOpenMemHandle_v2(kvx_cu_ptr *address,
						struct kvx_cu_ipc_handle handle, unsigned int flags)
{
	struct ticket ticket;
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	memcpy(&ticket, &handle, sizeof(ticket));
	if (flags != KVX_CU_IPC_LAZY_PEER_ACCESS || ticket.magic != MAGIC)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	/* As real drivers: not one's own. */
	if (ticket.process == getpid())
		return fake_leave(KVX_CU_ERROR_INVALID_CONTEXT);
	range = fake_range_imported(context, &ticket.file);
	if (!range)
		return fake_leave(import(context, &ticket, address));
	range->opened++;
	*address = range->base;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuIpcCloseMemHandle(kvx_cu_ptr address)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_at(address, FAKE_IMPORTED);
	if (!range)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (!--range->opened)
		fake_range_remove(range);
	return fake_leave(KVX_CU_SUCCESS);
}

/* --- to another driver --- */

/* A descriptor of its own, whose position is where the buffer begins: a dma-buf has no bytes before
 * what was asked for, a file has. */
static enum kvx_cu_result export_file(int fd, uint64_t offset, int *handle)
{
	char path[PATH_MAX_BYTES];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, O_RDWR | O_CLOEXEC);
	if (own < 0)
		return KVX_CU_ERROR_OPERATING_SYSTEM;
	if (lseek(own, (off_t)offset, SEEK_SET) < 0) {
		close(own);
		return KVX_CU_ERROR_OPERATING_SYSTEM;
	}
	*handle = own;
	return KVX_CU_SUCCESS;
}

static enum kvx_cu_result export_range(struct fake_range *range, kvx_cu_ptr address, uint64_t bytes,
				       int *handle)
{
	uint64_t offset = address - (uintptr_t)range->map;
	struct fake_segment *segment;

	if (range->kind == FAKE_ALLOCATED) {
		if (bytes > range->map_bytes - offset)
			return KVX_CU_ERROR_INVALID_VALUE;
		return export_file(range->fd, offset, handle);
	}
	if (range->kind != FAKE_RESERVED)
		return KVX_CU_ERROR_NOT_SUPPORTED;
	segment = fake_segment_find(range, address);
	if (!segment || bytes > segment->offset + segment->bytes - offset)
		return KVX_CU_ERROR_INVALID_VALUE;
	if (!segment->memory->gpu_direct)
		return KVX_CU_ERROR_NOT_SUPPORTED;
	return export_file(segment->memory->fd, segment->memory_offset + offset - segment->offset,
			   handle);
}

EXPORT enum kvx_cu_result cuMemGetHandleForAddressRange(void *handle, kvx_cu_ptr address,
							size_t bytes,
							enum kvx_cu_range_handle_type type,
							unsigned long long flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	if (!fake_option(FAKE_dmabuf))
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	if (type != KVX_CU_RANGE_HANDLE_DMA_BUF_FD || (flags & ~1ull) || !bytes ||
	    address % PAGE_BYTES || bytes % PAGE_BYTES)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if ((flags & KVX_CU_RANGE_DMA_BUF_PCIE) && !fake_option(FAKE_pcie))
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	/* An allocation may begin within the first page. */
	range = fake_range_find(address);
	if (!range)
		range = fake_range_find(address + PAGE_BYTES - 1);
	if (!range || fake_range_is_host(range))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	return fake_leave(export_range(range, address, bytes, handle));
}

EXPORT enum kvx_cu_result cuFlushGPUDirectRDMAWrites(enum kvx_cu_flush_target target,
						     enum kvx_cu_flush_scope scope)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	if (!fake_option(FAKE_flush))
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	if (target != KVX_CU_FLUSH_TARGET_CURRENT_CONTEXT ||
	    (scope != KVX_CU_FLUSH_TO_OWNER && scope != KVX_CU_FLUSH_TO_ALL_DEVICES))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	fake_counters.flushes++;
	return fake_leave(KVX_CU_SUCCESS);
}
