/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

void *kvx_map_shared(int fd, size_t bytes, int protection)
{
	if (bytes > SIZE_MAX - 2 * HUGE_BYTES) {
		errno = ENOMEM;
		return NULL;
	}

	/* The kernel aligns only what it would back with huge pages by itself, so take too much and
	 * give the ends back. */
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t whole = (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
	char *range = mmap(NULL, whole + HUGE_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (range == MAP_FAILED)
		return NULL;

	size_t before = -(uintptr_t)range & (HUGE_BYTES - 1);
	char *address = mmap(range + before, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
	if (address == MAP_FAILED) {
		int error = errno;
		munmap(range, whole + HUGE_BYTES);
		errno = error;
		return NULL;
	}
	size_t used = (bytes + page - 1) / page * page;
	if (before)
		munmap(range, before);
	munmap(address + used, whole - used + HUGE_BYTES - before);
	madvise(address, bytes, MADV_HUGEPAGE);
	return address;
}
