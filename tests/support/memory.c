/* SPDX-License-Identifier: Apache-2.0 */
#include "support/memory.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define LAST_BLOCK_BYTES (16u << 20) /* more than any block of a test */

bool memory_is_device(void)
{
	const char *wanted = getenv("KVX_TEST_MEMORY");

	return wanted && strcmp(wanted, "cuda") == 0;
}

/* Of the driver, by its binary interface. */
static void *driver_function(const char *name)
{
	static void *driver;

	if (!driver)
		driver = dlopen("libcuda.so.1", RTLD_NOW);
	cr_assert(driver, "%s", dlerror());
	void *function = dlsym(driver, name);
	cr_assert(function, "libcuda.so.1 has no %s", name);
	return function;
}

/* A context for the calling thread, once. */
static void enter_device(void)
{
	static _Thread_local bool entered;
	int (*init)(unsigned) = (int (*)(unsigned))driver_function("cuInit");
	int (*retain)(void **, int) =
		(int (*)(void **, int))driver_function("cuDevicePrimaryCtxRetain");
	int (*push)(void *) = (int (*)(void *))driver_function("cuCtxPushCurrent_v2");
	void *context;

	if (entered)
		return;
	cr_assert(init(0) == 0 && retain(&context, 0) == 0 && push(context) == 0, "no device");
	entered = true;
}

void *memory_alloc(size_t bytes)
{
	uint64_t address;

	if (!memory_is_device()) {
		void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		cr_assert_neq(mapped, MAP_FAILED);
		return mapped;
	}
	enter_device();
	int (*alloc)(uint64_t *, size_t) =
		(int (*)(uint64_t *, size_t))driver_function("cuMemAlloc_v2");
	cr_assert(alloc(&address, (bytes + 2 * PAGE - 1) / PAGE * PAGE) == 0,
		  "no device memory of %zu bytes", bytes);
	return (void *)(uintptr_t)((address + PAGE - 1) / PAGE * PAGE);
}

void *memory_view(const void *address)
{
	static void *(*view)(const void *);

	if (!memory_is_device())
		return (void *)address;
	if (!view)
		view = (void *(*)(const void *))driver_function("fake_cuda_view");
	void *seen = view(address);
	return seen ? seen : (void *)address;
}

int region_alloc(struct kvx_engine *engine, size_t bytes, struct kvx_region **region)
{
	return memory_is_device() ? kvx_region_register(engine, memory_alloc(bytes), bytes, region)
				  : kvx_region_alloc(engine, bytes, region);
}

/* [layer][plane][block], packed. */
static int packed_on_device(struct kvx_engine *engine, const struct kvx_geometry *geometry,
			    struct kvx_pool **pool)
{
	struct kvx_region *region;
	uint32_t tensors = geometry->layers * geometry->planes;
	uint64_t plane_bytes = (uint64_t)geometry->blocks * geometry->block_bytes;
	struct kvx_tensor *list = calloc(tensors, sizeof(*list));

	int error = region_alloc(engine, plane_bytes * tensors, &region);
	for (uint32_t i = 0; i < tensors && !error; i++)
		list[i] = (struct kvx_tensor){.region = region, .offset = i * plane_bytes};
	if (!error)
		error = kvx_pool_open(engine, geometry, list, pool);
	free(list);
	return error;
}

/* The same where planes differ: laid out as the library lays out its own, which one of host memory
 * shows. */
static int pool_on_device(struct kvx_engine *engine, const struct kvx_geometry *geometry,
			  struct kvx_pool **pool)
{
	struct kvx_pool *shown;
	struct kvx_region *region;
	uint32_t planes = geometry->planes, tensors = geometry->layers * planes;
	struct kvx_tensor *list = calloc(tensors, sizeof(*list));

	int error = kvx_pool_alloc(engine, geometry, &shown);
	if (error) {
		free(list);
		return error;
	}
	const char *first = kvx_pool_block(shown, 0, 0, 0), *last = first;
	for (uint32_t i = 0; i < tensors; i++) {
		last = kvx_pool_block(shown, i / planes, i % planes, 0);
		list[i].offset = (uint64_t)(last - first);
		last = kvx_pool_block(shown, i / planes, i % planes, geometry->blocks - 1);
	}
	kvx_pool_close(shown);
	error = region_alloc(engine, (size_t)(last - first) + LAST_BLOCK_BYTES, &region);
	for (uint32_t i = 0; i < tensors; i++)
		list[i].region = region;
	if (!error)
		error = kvx_pool_open(engine, geometry, list, pool);
	free(list);
	return error;
}

int pool_alloc(struct kvx_engine *engine, const struct kvx_geometry *geometry,
	       struct kvx_pool **pool)
{
	if (!memory_is_device())
		return kvx_pool_alloc(engine, geometry, pool);
	return geometry->block_bytes && !geometry->extra_planes
		       ? packed_on_device(engine, geometry, pool)
		       : pool_on_device(engine, geometry, pool);
}

void *block_view(const struct kvx_pool *pool, uint32_t layer, uint32_t plane, uint32_t block)
{
	return memory_view(kvx_pool_block(pool, layer, plane, block));
}

void *region_view(const struct kvx_region *region)
{
	return memory_view(kvx_region_address(region));
}
