/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/kind.h"

#include "base/error.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static bool host_owns(const void *address)
{
	(void)address;
	return true;
}

/* Asks the kernel, which says so where a look would end the process: address space that a device's
 * driver has reserved is mapped, but for nobody to touch. */
static bool is_readable(const void *address)
{
	char byte;
	struct iovec here = {&byte, sizeof(byte)}, there = {(void *)(uintptr_t)address, 1};

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1 || errno != EFAULT;
}

static int host_check(const void *address, size_t bytes, uint32_t *device)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t first = (uintptr_t)address & ~(page - 1);

	*device = KVX_DEVICE_NONE;
	/* msync(MS_ASYNC) does nothing on Linux but to look whether all of the range is mapped. */
	if (msync((void *)first, (uintptr_t)address + bytes - first, MS_ASYNC) < 0)
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: not all of it is mapped (%s); map it "
				"first and keep "
				"it mapped until the region is closed",
				address, bytes, strerror(errno));
	if (!is_readable(address) || !is_readable((const char *)address + bytes - 1))
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: this process cannot read it; make it "
				"readable (mprotect), and if it is a GPU's: that is not to be had "
				"in a process that was forked after CUDA was initialised",
				address, bytes);
	return 0;
}

const struct kvx_memory_kind kvx_memory_host = {
	.name = "host",
	.touchable = true,
	.owns = host_owns,
	.check = host_check,
};

/* Best first; host is the last, since it owns whatever the others do not. */
static const struct kvx_memory_kind *const kinds[] = {&kvx_memory_cuda, &kvx_memory_host};

const struct kvx_memory_kind *kvx_memory_kind_of(const void *address)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i]->owns(address))
			return kinds[i];
	return &kvx_memory_host;
}
