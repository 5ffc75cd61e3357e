/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/gpu.h"

#include "base/error.h"

#include <criterion/criterion.h>

char *gpu_alloc(uint32_t device, size_t bytes)
{
	kvx_cu_ptr address;

	expect_ok(kvx_cuda_enter(device));
	expect_cu(kvx_cuda()->mem_alloc(&address, bytes));
	kvx_cuda_leave();
	return (char *)(uintptr_t)address;
}

void gpu_free(uint32_t device, void *address)
{
	expect_ok(kvx_cuda_enter(device));
	expect_cu(kvx_cuda()->mem_free((kvx_cu_ptr)(uintptr_t)address));
	kvx_cuda_leave();
}

static void map_one(const struct gpu_mapping *mapping, kvx_cu_ptr at)
{
	struct kvx_cu_allocation allocation = {
		.type = KVX_CU_ALLOCATION_PINNED,
		.location = {KVX_CU_LOCATION_DEVICE, (int)mapping->device},
		.flags = {.gpu_direct_capable = mapping->capable},
	};
	struct kvx_cu_access access = {allocation.location, KVX_CU_ACCESS_READ_WRITE};
	kvx_cu_memory memory;

	if (!mapping->mapped)
		return;
	expect_ok(kvx_cuda_enter(mapping->device));
	expect_cu(cuMemCreate(&memory, GPU_MAPPED_BYTES, &allocation, 0));
	expect_cu(cuMemMap(at, GPU_MAPPED_BYTES, 0, memory, 0));
	expect_cu(cuMemRelease(memory));
	if (mapping->accessible)
		expect_cu(cuMemSetAccess(at, GPU_MAPPED_BYTES, &access, 1));
	kvx_cuda_leave();
}

char *gpu_map(const struct gpu_mapping *mappings, uint32_t count)
{
	kvx_cu_ptr base;

	expect_ok(kvx_cuda_enter(0));
	expect_cu(cuMemAddressReserve(&base, count * GPU_MAPPED_BYTES, 0, 0, 0));
	kvx_cuda_leave();
	for (uint32_t i = 0; i < count; i++)
		map_one(&mappings[i], base + i * GPU_MAPPED_BYTES);
	return (char *)(uintptr_t)base;
}

static unsigned char *view_of(const void *address)
{
	unsigned char *view = fake_cuda_view(address);

	return view ? view : (unsigned char *)(uintptr_t)address;
}

static unsigned char byte_at(size_t place, uint32_t seed)
{
	return (unsigned char)((place + seed) * 2654435761u >> 13);
}

void gpu_fill(void *address, size_t bytes, uint32_t seed)
{
	unsigned char *view = view_of(address);

	for (size_t i = 0; i < bytes; i++)
		view[i] = byte_at(i, seed);
}

void gpu_expect(const void *address, size_t bytes, uint32_t seed)
{
	const unsigned char *view = view_of(address);

	for (size_t i = 0; i < bytes; i++)
		cr_assert_eq(view[i], byte_at(i, seed), "byte %zu of %zu", i, bytes);
}
