/* SPDX-License-Identifier: Apache-2.0 */
/* Protection domains, regions and windows. */
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define PAGES_AT_ONCE 4096u
#define WINDOW_ACCESS                                                                  \
	(IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC | \
	 IBV_ACCESS_ZERO_BASED)

/* --- protection domains --- */

EXPORT struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct fake_context *own = fake_context(context);
	struct fake_pd *pd = own->dead ? NULL : calloc(1, sizeof(*pd));

	if (!pd) {
		errno = own->dead ? EIO : ENOMEM;
		return NULL;
	}
	pd->ibv.context = context;
	fake_lock();
	own->children++;
	own->device->counters.pds++;
	fake_unlock();
	return &pd->ibv;
}

EXPORT int ibv_dealloc_pd(struct ibv_pd *ibv)
{
	struct fake_context *context = fake_context(ibv->context);
	struct fake_pd *pd = (struct fake_pd *)ibv;

	fake_lock();
	if (pd->children) {
		fake_unlock();
		return EBUSY;
	}
	context->children--;
	context->device->counters.pds--;
	fake_unlock();
	free(pd);
	return 0;
}

/* --- regions --- */

static uint64_t registered_bytes(void)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < fake_device_count; i++)
		bytes += fake_devices[i].counters.registered_bytes;
	return bytes;
}

/* A device pins the pages, so they have to be there. */
static bool is_mapped(const void *address, size_t bytes)
{
	uintptr_t page = (uintptr_t)address & ~(uintptr_t)(PAGE_BYTES - 1);
	uintptr_t end = (uintptr_t)address + bytes;
	unsigned char resident[PAGES_AT_ONCE];

	for (; page < end; page += (uintptr_t)PAGES_AT_ONCE * PAGE_BYTES) {
		size_t some = end - page;
		if (some > (size_t)PAGES_AT_ONCE * PAGE_BYTES)
			some = (size_t)PAGES_AT_ONCE * PAGE_BYTES;
		if (mincore((void *)page, some, resident))
			return false;
	}
	return true;
}

/* 0 or an errno: what a kernel would say to this registration. */
static int judge(struct fake_context *context, size_t bytes, unsigned access)
{
	uint64_t countdown = fake_option(FAKE_fail_registration);

	if (context->dead)
		return EIO;
	if (bytes == 0 || bytes > fake_option(FAKE_max_mr_size))
		return EINVAL;
	if ((access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) &&
	    !(access & IBV_ACCESS_LOCAL_WRITE))
		return EINVAL;
	if (countdown) {
		fake_option_store(FAKE_fail_registration, countdown - 1);
		if (countdown == 1)
			return (int)fake_option(FAKE_fail_errno);
	}
	if (bytes > fake_option(FAKE_locked_max) ||
	    registered_bytes() > fake_option(FAKE_locked_max) - bytes)
		return ENOMEM;
	return 0;
}

static bool share_a_byte(const struct fake_mr *mr, const struct fake_mr *other)
{
	if (mr->map || other->map)
		return mr->map && other->map && mr->file == other->file &&
		       mr->file_offset < other->file_offset + other->ibv.length &&
		       other->file_offset < mr->file_offset + mr->ibv.length;
	return mr->bytes < other->bytes + other->ibv.length &&
	       other->bytes < mr->bytes + mr->ibv.length;
}

static void count_registration(struct fake_device *device, const struct fake_mr *mr)
{
	struct fake_verbs_counters *counters = &device->counters;
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &device->mrs)
		if (share_a_byte(mr, kvx_container_of(entry, struct fake_mr, entry))) {
			counters->twice++;
			break;
		}
	counters->registrations++;
	counters->registered_bytes += mr->ibv.length;
	counters->mrs++;
	if ((mr->access & IBV_ACCESS_RELAXED_ORDERING) && fake_option(FAKE_relaxed_ordering))
		counters->relaxed++;
}

/* Takes mr over, filled but for what is the same in all. */
static struct ibv_mr *enter(struct ibv_pd *pd, struct fake_mr *mr)
{
	struct fake_context *context = fake_context(pd->context);
	int error;

	fake_lock();
	error = judge(context, mr->ibv.length, mr->access);
	mr->ibv.lkey = error ? 0 : fake_table_add(FAKE_MR, mr);
	if (mr->ibv.lkey == 0) {
		fake_unlock();
		if (mr->map)
			munmap(mr->map, mr->map_bytes);
		free(mr);
		errno = error ? error : ENOMEM;
		return NULL;
	}
	mr->ibv.context = pd->context;
	mr->ibv.pd = pd;
	mr->ibv.rkey = mr->ibv.handle = mr->ibv.lkey;
	count_registration(context->device, mr);
	kvx_list_append(&context->device->mrs, &mr->entry);
	((struct fake_pd *)pd)->children++;
	fake_unlock();
	return &mr->ibv;
}

/* Not a device's address space. */
static bool is_readable(void *address)
{
	char byte;
	const struct iovec own = {&byte, 1}, there = {address, 1};

	return process_vm_readv(getpid(), &own, 1, &there, 1, 0) == 1;
}

EXPORT struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t bytes,
				       uint64_t iova, unsigned access)
{
	struct fake_mr *mr;

	if (!is_mapped(address, bytes) ||
	    (!fake_option(FAKE_peer_memory) && !is_readable(address))) {
		errno = EFAULT;
		return NULL;
	}
	mr = calloc(1, sizeof(*mr));
	if (!mr)
		return NULL;
	mr->ibv.addr = address;
	mr->ibv.length = bytes;
	mr->bytes = address;
	mr->iova = iova;
	mr->access = access;
	return enter(pd, mr);
}

EXPORT struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t bytes, int access)
{
	return ibv_reg_mr_iova2(pd, address, bytes, (uintptr_t)address, (unsigned)access);
}

EXPORT struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *address, size_t bytes, uint64_t iova,
				      int access)
{
	return ibv_reg_mr_iova2(pd, address, bytes, iova, (unsigned)access);
}

/* Stands for a device's memory; 0 or an errno. The buffer begins at the descriptor's position, as
 * the made-up GPU gives it. */
static int map_file(struct fake_mr *mr, int fd, uint64_t offset, size_t bytes, unsigned access)
{
	off_t begin = lseek(fd, 0, SEEK_CUR);
	uint64_t skip = offset % PAGE_BYTES;
	int protection = PROT_READ | (access & IBV_ACCESS_LOCAL_WRITE ? PROT_WRITE : 0);
	struct stat stat;

	if (begin < 0 || fstat(fd, &stat))
		return EBADF;
	offset += (uint64_t)begin;
	if (stat.st_size < 0 || offset > (uint64_t)stat.st_size ||
	    bytes > (uint64_t)stat.st_size - offset)
		return EINVAL;
	mr->map_bytes = bytes + skip;
	mr->map = mmap(NULL, mr->map_bytes, protection, MAP_SHARED, fd, (off_t)(offset - skip));
	if (mr->map == MAP_FAILED)
		return errno;
	mr->bytes = (uint8_t *)mr->map + skip;
	mr->file = stat.st_ino;
	mr->file_offset = offset;
	return 0;
}

EXPORT struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t bytes,
					uint64_t iova, int fd, int access)
{
	struct fake_mr *mr;
	int error = EOPNOTSUPP;

	if (!fake_option(FAKE_dmabuf))
		goto fail;
	error = EINVAL;
	if (bytes == 0 || offset % PAGE_BYTES != iova % PAGE_BYTES)
		goto fail;
	error = ENOMEM;
	mr = calloc(1, sizeof(*mr));
	if (!mr)
		goto fail;
	error = map_file(mr, fd, offset, bytes, (unsigned)access);
	if (error)
		goto fail_map;
	mr->ibv.length = bytes;
	mr->iova = iova;
	mr->access = (unsigned)access;
	return enter(pd, mr);
fail_map:
	free(mr);
fail:
	errno = error;
	return NULL;
}

EXPORT int ibv_dereg_mr(struct ibv_mr *ibv)
{
	struct fake_mr *mr = (struct fake_mr *)ibv;
	struct fake_device *device = fake_context(ibv->context)->device;

	fake_lock();
	if (mr->windows) {
		fake_unlock();
		return EBUSY;
	}
	fake_table_remove(ibv->lkey);
	kvx_list_remove(&mr->entry);
	device->counters.mrs--;
	device->counters.registered_bytes -= ibv->length;
	((struct fake_pd *)ibv->pd)->children--;
	if (mr->map)
		munmap(mr->map, mr->map_bytes);
	fake_unlock();
	free(mr);
	return 0;
}

/* --- windows --- */

struct ibv_mw *fake_alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
	struct fake_context *context = fake_context(pd->context);
	struct fake_mw *mw;
	int error = EINVAL;

	if (type != IBV_MW_TYPE_2)
		goto fail;
	error = ENOMEM;
	mw = calloc(1, sizeof(*mw));
	if (!mw)
		goto fail;
	fake_lock();
	error = context->dead ? EIO : ENOMEM;
	if (!context->dead && context->device->counters.mws < fake_option(FAKE_max_mw))
		mw->key = fake_table_add(FAKE_MW, mw);
	if (mw->key == 0) {
		fake_unlock();
		free(mw);
		goto fail;
	}
	mw->ibv = (struct ibv_mw){pd->context, pd, mw->key, mw->key, type};
	context->device->counters.mws++;
	((struct fake_pd *)pd)->children++;
	fake_unlock();
	return &mw->ibv;
fail:
	errno = error;
	return NULL;
}

static void unbind(struct fake_mw *mw)
{
	if (!mw->mr)
		return;
	mw->mr->windows--;
	mw->qp->windows--;
	mw->mr = NULL;
	mw->qp = NULL;
}

int fake_dealloc_mw(struct ibv_mw *ibv)
{
	struct fake_mw *mw = (struct fake_mw *)ibv;

	fake_lock();
	unbind(mw);
	fake_table_remove(mw->key);
	fake_context(ibv->context)->device->counters.mws--;
	((struct fake_pd *)ibv->pd)->children--;
	fake_unlock();
	free(mw);
	return 0;
}

static bool is_inside(uint64_t address, uint64_t bytes, uint64_t begin, uint64_t size)
{
	return address >= begin && address - begin <= size && bytes <= size - (address - begin);
}

enum ibv_wc_status fake_mw_bind(struct fake_qp *qp, struct ibv_mw *ibv, uint32_t key,
				const struct ibv_mw_bind_info *info)
{
	struct fake_mw *mw = (struct fake_mw *)ibv;
	struct fake_mr *mr = (struct fake_mr *)info->mr;

	/* A window of type 2 is invalidated before it is bound again, and never with the key it
	 * had. */
	if (!mr || mw->mr || key >> 8 != mw->key >> 8 || key == mw->key)
		return IBV_WC_MW_BIND_ERR;
	if (ibv->pd != qp->ibv.pd || mr->ibv.pd != qp->ibv.pd)
		return IBV_WC_MW_BIND_ERR;
	if (!(mr->access & IBV_ACCESS_MW_BIND) || (info->mw_access_flags & ~WINDOW_ACCESS))
		return IBV_WC_MW_BIND_ERR;
	if ((info->mw_access_flags & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) &&
	    !(mr->access & IBV_ACCESS_LOCAL_WRITE))
		return IBV_WC_MW_BIND_ERR;
	if (info->length == 0 || !is_inside(info->addr, info->length, mr->iova, mr->ibv.length))
		return IBV_WC_MW_BIND_ERR;
	mw->key = key;
	mw->address = info->addr;
	mw->bytes = info->length;
	mw->access = info->mw_access_flags;
	mw->mr = mr;
	mw->qp = qp;
	mr->windows++;
	qp->windows++;
	return IBV_WC_SUCCESS;
}

enum ibv_wc_status fake_mw_invalidate(struct fake_qp *qp, uint32_t key)
{
	enum fake_kind kind = FAKE_NOTHING;
	struct fake_mw *mw = fake_table_find(key, &kind);

	if (kind != FAKE_MW || mw->key != key || mw->qp != qp)
		return IBV_WC_LOC_QP_OP_ERR;
	unbind(mw);
	return IBV_WC_SUCCESS;
}

/* --- use --- */

static uint8_t *in_region(const struct fake_mr *mr, uint64_t address, uint64_t bytes)
{
	if (!is_inside(address, bytes, mr->iova, mr->ibv.length))
		return NULL;
	return mr->bytes + (address - mr->iova);
}

static uint8_t *in_window(struct fake_qp *qp, const struct fake_mw *mw, uint64_t address,
			  uint64_t bytes, unsigned access)
{
	if (mw->access & IBV_ACCESS_ZERO_BASED)
		address += mw->address;
	if (mw->qp != qp || (mw->access & access) != access ||
	    !is_inside(address, bytes, mw->address, mw->bytes))
		return NULL;
	return in_region(mw->mr, address, bytes);
}

uint8_t *fake_memory(struct fake_qp *qp, uint32_t key, uint64_t address, uint64_t bytes,
		     unsigned access, bool remote)
{
	enum fake_kind kind = FAKE_NOTHING;
	void *object = fake_table_find(key, &kind);
	struct fake_mr *mr = object;

	if (kind == FAKE_MW && remote && ((struct fake_mw *)object)->key == key)
		return in_window(qp, object, address, bytes, access);
	if (kind != FAKE_MR || mr->ibv.lkey != key || mr->ibv.pd != qp->ibv.pd ||
	    (mr->access & access) != access)
		return NULL;
	return in_region(mr, address, bytes);
}
