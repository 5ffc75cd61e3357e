/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "base/map.h"
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 1024

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Since Linux 5.1; without it who gets the descriptor could map it writable. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* Says which limit stood in the way. */
static int fail_alloc(const char *what, uint64_t bytes)
{
	bool descriptors = errno == EMFILE || errno == ENFILE;
	const char *change = descriptors ? "; raise RLIMIT_NOFILE or fs.file-max"
			     : errno == ENOMEM
				     ? "; raise RLIMIT_AS, vm.max_map_count or vm.overcommit_memory"
			     : errno == EFBIG ? "; raise RLIMIT_FSIZE"
					      : "";

	return kvx_fail(descriptors ? KVX_E_SYSTEM : KVX_E_MEMORY,
			"memory: cannot allocate %llu bytes: %s: %s%s", (unsigned long long)bytes,
			what, strerror(errno), change);
}

/* What can be had without swapping or killing; no limit if the kernel does not say. */
static uint64_t available_bytes(void)
{
	static const char name[] = "MemAvailable:";
	uint64_t available = UINT64_MAX;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "re");

	if (!file)
		return available;
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			available = (uint64_t)strtoull(line + strlen(name), NULL, 10)
				    << 10; /* kB */
	fclose(file);
	return available;
}

/* A wish: where the kernel does not know nodes, any memory does. */
static void prefer_node(void *address, uint64_t bytes, int numa)
{
	unsigned long nodes[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
	const unsigned bits = 8 * sizeof(nodes[0]);

	if (numa < 0 || numa >= NODES_MAX)
		return;
	nodes[(unsigned)numa / bits] = 1ul << ((unsigned)numa % bits);
	(void)syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, nodes, NODES_MAX, 0);
}

int kvx_memory_alloc(struct kvx_memory *memory, uint64_t bytes, int numa)
{
	int error;

	/* A size beyond what files can have would look negative to ftruncate(). */
	if (bytes == 0 || bytes > INT64_MAX)
		return kvx_fail(KVX_E_INVALID, "memory: cannot allocate %llu bytes",
				(unsigned long long)bytes);

	/* Its pages are made at once, so too much would not fail but have a process killed. */
	uint64_t available = available_bytes();
	if (bytes > available)
		return kvx_fail(KVX_E_MEMORY,
				"memory: cannot allocate %llu bytes: the machine has %llu "
				"available; make the "
				"pool smaller",
				(unsigned long long)bytes, (unsigned long long)available);

	int fd = memfd_create("kvxfer-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fail_alloc("memfd_create", bytes);
	if (ftruncate(fd, (off_t)bytes) < 0) {
		error = fail_alloc("ftruncate", bytes);
		goto fail_file;
	}
	void *address = kvx_map_shared(fd, (size_t)bytes, PROT_READ | PROT_WRITE);
	if (!address) {
		error = fail_alloc("mmap", bytes);
		goto fail_file;
	}
	if (fcntl(fd, F_ADD_SEALS,
		  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0) {
		error = fail_alloc("F_ADD_SEALS", bytes);
		goto fail_mapping;
	}
	prefer_node(address, bytes, numa);
	/* Its pages now, not in the middle of the first request. Linux before 5.14 does without. */
	if (madvise(address, (size_t)bytes, MADV_POPULATE_WRITE) < 0 && errno != EINVAL) {
		error = fail_alloc("MADV_POPULATE_WRITE", bytes);
		goto fail_mapping;
	}
	memory->address = address;
	memory->bytes = bytes;
	memory->fd = fd;
	memory->dmabuf = -1;
	return 0;

fail_mapping:
	munmap(address, (size_t)bytes);
fail_file:
	close(fd);
	return error;
}

void kvx_memory_free(struct kvx_memory *memory)
{
	munmap(memory->address, (size_t)memory->bytes);
	close(memory->fd);
}
