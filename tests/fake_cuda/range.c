/* SPDX-License-Identifier: Apache-2.0 */
/* All memory that the driver knows, by its addresses. */
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct kvx_list ranges = {&ranges, &ranges};
static uint64_t next_id;

static struct fake_range *range_of(struct kvx_list *entry)
{
	return kvx_container_of(entry, struct fake_range, entry);
}

struct fake_range *fake_range_find(uint64_t address)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &ranges)
		if (address - range_of(entry)->base < range_of(entry)->bytes)
			return range_of(entry);
	return NULL;
}

struct fake_range *fake_range_at(uint64_t base, enum fake_range_kind kind)
{
	struct fake_range *range = fake_range_find(base);

	return range && range->base == base && range->kind == kind ? range : NULL;
}

struct fake_range *fake_range_imported(struct kvx_cu_context *context, const struct fake_file *file)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &ranges) {
		struct fake_range *range = range_of(entry);
		if (range->kind == FAKE_IMPORTED && range->context == context &&
		    range->file.device == file->device && range->file.inode == file->inode)
			return range;
	}
	return NULL;
}

bool fake_range_touches(uint64_t base, uint64_t bytes)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &ranges)
		if (range_of(entry)->base < base + bytes &&
		    base < range_of(entry)->base + range_of(entry)->bytes)
			return true;
	return false;
}

bool fake_range_is_host(const struct fake_range *range)
{
	return range->kind == FAKE_PINNED || range->kind == FAKE_HOST;
}

struct fake_range *fake_range_add(struct kvx_cu_context *context, enum fake_range_kind kind)
{
	struct fake_range *range = calloc(1, sizeof(*range));

	if (!range)
		return NULL;
	range->kind = kind;
	range->context = context;
	range->fd = -1;
	range->id = ++next_id;
	kvx_list_init(&range->segments);
	kvx_list_append(&ranges, &range->entry);
	fake_counters.live++;
	return range;
}

void fake_range_remove(struct fake_range *range)
{
	kvx_list_remove(&range->entry);
	while (range->users)
		fake_wait();
	fake_segments_end(range);
	if (range->map)
		munmap(range->map, range->map_bytes);
	if (range->view_map)
		munmap(range->view_map, range->map_bytes);
	if (range->fd >= 0)
		close(range->fd);
	free(range);
	fake_counters.live--;
}

/* Address space of that alignment that nobody may touch. */
static char *reserve(uint64_t bytes, uint64_t alignment)
{
	uint64_t more = alignment > PAGE_BYTES ? bytes + alignment : bytes;
	char *map = mmap(NULL, more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (map == MAP_FAILED)
		return NULL;
	skip = more > bytes ? -(uintptr_t)map % alignment : 0;
	if (skip)
		munmap(map, skip);
	if (more - skip > bytes)
		munmap(map + skip + bytes, more - skip - bytes);
	return map + skip;
}

enum kvx_cu_result fake_range_map(struct fake_range *range, uint64_t bytes, uint64_t alignment)
{
	range->map_bytes = (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
	range->map = reserve(range->map_bytes, alignment);
	if (!range->map)
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	range->view_map =
		mmap(NULL, range->map_bytes, range->fd < 0 ? PROT_NONE : PROT_READ | PROT_WRITE,
		     range->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED,
		     range->fd, 0);
	if (range->view_map == MAP_FAILED) {
		range->view_map = NULL;
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	}
	return KVX_CU_SUCCESS;
}

char *fake_resolve(uint64_t address, uint64_t bytes, struct fake_range **range)
{
	struct fake_range *found = fake_range_find(address);

	if (!found || bytes > found->bytes - (address - found->base))
		return NULL;
	if (found->kind == FAKE_RESERVED && !fake_segments_accessible(found, address, bytes))
		return NULL;
	found->users++;
	*range = found;
	return found->view + (address - found->base);
}

void fake_release(struct fake_range *range)
{
	range->users--;
	fake_changed();
}

int fake_file_new(const char *name, uint64_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)bytes)) {
		close(fd);
		return -1;
	}
	return fd;
}

static struct fake_range *first_of(struct kvx_cu_context *context)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &ranges)
		if (range_of(entry)->context == context)
			return range_of(entry);
	return NULL;
}

void fake_ranges_end(struct kvx_cu_context *context)
{
	struct fake_range *range;

	/* Removing one may wait, so that the list is another one afterwards. */
	while ((range = first_of(context)))
		fake_range_remove(range);
}

EXPORT void *fake_cuda_view(const void *device_address)
{
	uint64_t address = (uintptr_t)device_address;
	struct fake_range *range;
	void *view = NULL;

	fake_lock();
	range = fake_range_find(address);
	if (range && !fake_range_is_host(range) &&
	    (range->kind != FAKE_RESERVED || fake_segment_find(range, address)))
		view = range->view + (address - range->base);
	fake_unlock();
	return view;
}
