/* SPDX-License-Identifier: Apache-2.0 */
/* The fake driver: devices, contexts, memory. */
#include "cuda/device.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 65536u
#define WORDS (BYTES / 4)
#define SEGMENT (2u << 20)

TestSuite(fake_cuda, .init = device_open, .fini = device_close, .timeout = 60);

/* --- devices and contexts --- */

Test(fake_cuda, devices_are_told_as_by_a_driver)
{
	char name[16];
	int count, value;

	expect_cu(cuDeviceGetCount(&count));
	cr_assert_eq(count, 2);
	expect_cu(cuDeviceGetPCIBusId(name, sizeof(name), 1));
	cr_assert_str_eq(name, "0000:4A:00.0");
	expect_cu(cuDeviceGetAttribute(&value, KVX_CU_DEVICE_WRITES_ORDERING, 1));
	cr_assert_eq(value, KVX_CU_WRITES_ORDERING_ALL_DEVICES);
	expect_cu_error(cuDeviceGetPCIBusId(name, sizeof(name), 2), INVALID_DEVICE);
}

Test(fake_cuda, without_a_current_context_nothing_is_done)
{
	struct kvx_cu_context *context;
	kvx_cu_ptr address;

	expect_cu(cuCtxPopCurrent_v2(&context));
	expect_cu_error(cuMemAlloc_v2(&address, BYTES), INVALID_CONTEXT);
	expect_cu_error(cuCtxSynchronize(), INVALID_CONTEXT);
	expect_cu(cuCtxPushCurrent_v2(context));
}

Test(fake_cuda, what_is_forgotten_is_counted)
{
	struct kvx_cu_context *context;
	uint64_t live = fake_cuda_live(), leaked = fake_cuda_leaked();
	struct kvx_cu_event *event;

	expect_cu(cuDevicePrimaryCtxRetain(&context, 1));
	expect_cu(cuCtxPushCurrent_v2(context));
	device_new(BYTES);
	stream_new();
	expect_cu(cuEventCreate(&event, 0));
	cr_assert_eq(fake_cuda_live(), live + 4);
	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(1));
	cr_assert_eq(fake_cuda_live(), live);
	cr_assert_eq(fake_cuda_leaked(), leaked + 3);
}

Test(fake_cuda, options_take_features_away)
{
	struct kvx_cu_module *module;
	struct kvx_cu_stream *stream = stream_new();
	void *function, *memory = host_new(BYTES);
	enum kvx_cu_symbol_status status;
	kvx_cu_ptr address = device_new(BYTES);
	int fd;

	expect_cu(cuGetProcAddress_v2("cuMemcpyBatchAsync", &function, 12080, 0, &status));
	cr_assert(function && status == KVX_CU_SYMBOL_FOUND);
	expect_cu(cuGetProcAddress_v2("cuMemcpyBatchAsync", &function, 12070, 0, &status));
	cr_assert(!function && status == KVX_CU_SYMBOL_VERSION_NOT_SUFFICIENT);
	fake_cuda_set("batch", 0);
	expect_cu(cuGetProcAddress_v2("cuMemcpyBatchAsync", &function, 12080, 0, &status));
	cr_assert(!function && status == KVX_CU_SYMBOL_NOT_FOUND);
	fake_cuda_set("memops", 0);
	expect_cu_error(cuStreamWriteValue32_v2(stream, address_of(memory), 1, 0), NOT_SUPPORTED);
	fake_cuda_set("kernels", 0);
	expect_cu_error(cuModuleLoadData(&module, "fake:"), UNSUPPORTED_PTX_VERSION);
	fake_cuda_set("dmabuf", 0);
	expect_cu_error(cuMemGetHandleForAddressRange(&fd, address, BYTES, 1, 0), NOT_SUPPORTED);
	fake_cuda_set("pin", 0);
	expect_cu_error(cuMemHostRegister_v2(&module, sizeof(module), 0), OUT_OF_MEMORY);
	fake_cuda_set("absent", 1);
	expect_cu_error(cuInit(0), NO_DEVICE);
	expect_cu(cuMemFree_v2(address));
	expect_cu(cuMemFreeHost(memory));
	expect_cu(cuStreamDestroy_v2(stream));
}

/* --- memory --- */

static void touch(void *context)
{
	*(volatile char *)context = 1;
}

Test(fake_cuda, device_memory_is_not_the_cpus)
{
	kvx_cu_ptr address = device_new(BYTES);

	cr_assert_eq(signal_of(touch, (void *)(uintptr_t)address), SIGSEGV);
	cr_assert_eq(signal_of(touch, view(address)), 0);
	expect_cu(cuMemFree_v2(address));
	cr_assert_null(view(address));
}

static uint32_t type_of(kvx_cu_ptr address)
{
	uint32_t type;

	return cuPointerGetAttribute(&type, KVX_CU_POINTER_MEMORY_TYPE, address) ? 0 : type;
}

Test(fake_cuda, an_address_is_known_by_any_of_its_bytes)
{
	kvx_cu_ptr address = device_new(BYTES), base;
	static char unknown[16], pinned[16];
	enum kvx_cu_pointer_attribute wanted[] = {KVX_CU_POINTER_MEMORY_TYPE,
						  KVX_CU_POINTER_DEVICE_ORDINAL};
	uint32_t type = 7;
	int device = 7;
	size_t bytes;

	cr_assert_eq(type_of(address), KVX_CU_MEMORY_DEVICE);
	cr_assert_eq(type_of(address + BYTES - 1), KVX_CU_MEMORY_DEVICE);
	cr_assert_eq(type_of(address + BYTES), 0);
	cr_assert_eq(type_of(address_of(unknown)), 0);
	expect_cu(
		cuPointerGetAttributes(2, wanted, (void *[]){&type, &device}, address_of(unknown)));
	cr_assert(type == 0 && device == -2);
	expect_cu(cuPointerGetAttributes(2, wanted, (void *[]){&type, &device}, address + 1));
	cr_assert(type == KVX_CU_MEMORY_DEVICE && device == 0);
	expect_cu(cuMemHostRegister_v2(pinned, sizeof(pinned), 0));
	cr_assert_eq(type_of(address_of(pinned) + 15), KVX_CU_MEMORY_HOST);
	expect_cu_error(cuMemHostRegister_v2(pinned + 4, 4, 0), HOST_MEMORY_ALREADY_REGISTERED);
	expect_cu(cuMemHostUnregister(pinned));
	expect_cu_error(cuMemHostUnregister(pinned), HOST_MEMORY_NOT_REGISTERED);
	expect_cu(cuMemGetAddressRange_v2(&base, &bytes, address + 1234));
	cr_assert(base == address && bytes == BYTES);
	expect_cu(cuMemFree_v2(address));
}

Test(fake_cuda, a_synchronous_copy_takes_any_memory)
{
	kvx_cu_ptr address = device_new(BYTES);
	uint32_t from[4] = {1, 2, 3, 4}, to[4] = {0};

	expect_cu(cuMemcpy(address + 16, address_of(from), sizeof(from)));
	cr_assert_eq(memcmp(view(address + 16), from, sizeof(from)), 0);
	expect_cu(cuMemcpy(address_of(to), address + 16, sizeof(to)));
	cr_assert_eq(memcmp(to, from, sizeof(from)), 0);
	expect_cu(cuMemFree_v2(address));
}

/* --- address space and memory apart --- */

static const struct kvx_cu_allocation on_device = {
	.type = KVX_CU_ALLOCATION_PINNED,
	.location = {.type = KVX_CU_LOCATION_DEVICE},
	.flags.gpu_direct_capable = 1,
};
static const struct kvx_cu_access accessible = {
	.location = {.type = KVX_CU_LOCATION_DEVICE},
	.flags = KVX_CU_ACCESS_READ_WRITE,
};

static void map_segment(kvx_cu_ptr address)
{
	kvx_cu_memory memory;

	expect_cu(cuMemCreate(&memory, SEGMENT, &on_device, 0));
	expect_cu(cuMemMap(address, SEGMENT, 0, memory, 0));
	expect_cu(cuMemSetAccess(address, SEGMENT, &accessible, 1));
	expect_cu(cuMemRelease(memory));
}

Test(fake_cuda, segments_side_by_side_are_one_memory)
{
	struct kvx_cu_context *context = (void *)&context;
	uint32_t words[4] = {1, 2, 3, 4};
	unsigned long long access;
	kvx_cu_ptr space, base;
	size_t bytes;
	int fd;

	expect_cu(cuMemAddressReserve(&space, 3 * SEGMENT, 0, 0, 0));
	cr_assert_eq(type_of(space), 0);
	map_segment(space);
	map_segment(space + SEGMENT);
	cr_assert_eq(type_of(space + 2 * SEGMENT - 1), KVX_CU_MEMORY_DEVICE);
	cr_assert_eq(type_of(space + 2 * SEGMENT), 0);
	expect_cu(cuPointerGetAttribute(&context, KVX_CU_POINTER_CONTEXT, space));
	cr_assert_null(context);
	expect_cu(cuMemcpy(space + SEGMENT - 8, address_of(words), sizeof(words)));
	cr_assert_eq(memcmp(view(space + SEGMENT - 8), words, sizeof(words)), 0);
	expect_cu(cuMemGetAddressRange_v2(&base, &bytes, space + SEGMENT + 1));
	cr_assert(base == space + SEGMENT && bytes == SEGMENT);
	expect_cu_error(cuMemGetHandleForAddressRange(&fd, space, 2 * SEGMENT, 1, 0),
			INVALID_VALUE);
	expect_cu(cuMemGetHandleForAddressRange(&fd, space + SEGMENT, SEGMENT, 1, 0));
	close(fd);
	expect_cu(cuMemGetAccess(&access, &on_device.location, space));
	cr_assert_eq(access, KVX_CU_ACCESS_READ_WRITE);
	expect_cu_error(cuMemAddressFree(space, 3 * SEGMENT), INVALID_VALUE);
	expect_cu(cuMemUnmap(space, 2 * SEGMENT));
	expect_cu(cuMemAddressFree(space, 3 * SEGMENT));
}

Test(fake_cuda, memory_of_a_pool_is_freed_in_the_streams_order)
{
	struct kvx_cu_stream *stream = stream_new();
	struct kvx_cu_ipc_handle handle;
	uint32_t *host = host_new(BYTES);
	kvx_cu_ptr address;
	void *pool;
	int fd;

	expect_cu(cuMemAllocAsync(&address, BYTES, stream));
	expect_cu(cuPointerGetAttribute(&pool, KVX_CU_POINTER_MEMPOOL, address));
	cr_assert_not_null(pool);
	expect_cu_error(cuIpcGetMemHandle(&handle, address), INVALID_VALUE);
	expect_cu_error(cuMemGetHandleForAddressRange(&fd, address - address % 4096, 4096, 1, 0),
			NOT_SUPPORTED);
	fake_cuda_set("delay_us", 2000);
	host[0] = 77;
	expect_cu(cuMemcpyAsync(address, address_of(host), 4, stream));
	expect_cu(cuMemcpyAsync(address_of(host + 1), address, 4, stream));
	expect_cu(cuMemFreeAsync(address, stream));
	cr_assert_eq(type_of(address), KVX_CU_MEMORY_DEVICE);
	expect_cu(cuStreamSynchronize(stream));
	cr_assert_eq(host[1], 77);
	cr_assert_eq(type_of(address), 0);
	expect_cu(cuMemFreeHost(host));
	expect_cu(cuStreamDestroy_v2(stream));
}

/* --- for others --- */

static uint32_t *map_dmabuf(kvx_cu_ptr page, size_t bytes)
{
	uint32_t *map;
	int fd;

	expect_cu(cuMemGetHandleForAddressRange(&fd, page, bytes, KVX_CU_RANGE_HANDLE_DMA_BUF_FD,
						KVX_CU_RANGE_DMA_BUF_PCIE));
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, lseek(fd, 0, SEEK_CUR));
	cr_assert_neq(map, MAP_FAILED);
	close(fd);
	return map;
}

Test(fake_cuda, a_dmabuf_holds_the_same_bytes)
{
	kvx_cu_ptr address = device_new(BYTES), page = address - address % 4096;
	uint32_t *map;
	int fd;

	cr_assert_neq(page, address);
	expect_cu_error(cuMemGetHandleForAddressRange(&fd, address, 4096, 1, 0), INVALID_VALUE);
	fake_cuda_set("pcie", 0);
	expect_cu_error(cuMemGetHandleForAddressRange(&fd, page, 4096, 1, 1), NOT_SUPPORTED);
	fake_cuda_set("pcie", 1);
	map = map_dmabuf(page, BYTES);
	map[(address - page) / 4] = 5;
	cr_assert_eq(*view(address), 5);
	munmap(map, BYTES);
	map = map_dmabuf(page + 8192, 4096);
	*view(page + 8192) = 6;
	cr_assert_eq(*map, 6);
	munmap(map, 4096);
	expect_cu(cuMemFree_v2(address));
}

/* Another process: adds one to each word of the memory whose handle comes, and keeps it for a
 * while. */
static int increment(int socket)
{
	struct kvx_cu_ipc_handle handle;
	struct kvx_cu_context *context;
	kvx_cu_ptr address, again;
	uint32_t words[WORDS];
	char byte = 0;

	if (read(socket, &handle, sizeof(handle)) != sizeof(handle) || cuInit(0) ||
	    cuDevicePrimaryCtxRetain(&context, 1) || cuCtxPushCurrent_v2(context) ||
	    cuIpcOpenMemHandle_v2(&address, handle, KVX_CU_IPC_LAZY_PEER_ACCESS) ||
	    cuIpcOpenMemHandle_v2(&again, handle, KVX_CU_IPC_LAZY_PEER_ACCESS) ||
	    again != address || cuMemcpy(address_of(words), address, BYTES))
		return 1;
	for (unsigned i = 0; i < WORDS; i++)
		words[i]++;
	if (cuMemcpy(address, address_of(words), BYTES) || write(socket, &byte, 1) != 1 ||
	    read(socket, &byte, 1) != 1)
		return 2;
	/* The owner has freed it meanwhile. */
	if (cuMemcpy(address_of(words), address, 4) || words[0] != 11 ||
	    cuIpcCloseMemHandle(address) || cuIpcCloseMemHandle(address) ||
	    !cuIpcCloseMemHandle(address) ||
	    !cuIpcOpenMemHandle_v2(&again, handle, KVX_CU_IPC_LAZY_PEER_ACCESS) ||
	    cuDevicePrimaryCtxRelease_v2(1) || fake_cuda_live())
		return 3;
	return 0;
}

/* Begins without the fake, so that it can be used after fork(). */
Test(fake_cuda_ipc, memory_is_shared_between_processes, .timeout = 60)
{
	struct kvx_cu_ipc_handle handle;
	int sockets[2], status;
	kvx_cu_ptr address;
	char byte;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
	pid_t child = fork();
	cr_assert_geq(child, 0);
	if (!child)
		_exit(increment(sockets[1]));
	close(sockets[1]);
	device_open();
	address = device_new(BYTES);
	for (uint32_t i = 0; i < WORDS; i++)
		view(address)[i] = i + 10;
	expect_cu(cuIpcGetMemHandle(&handle, address));
	expect_cu_error(cuIpcOpenMemHandle_v2(&(kvx_cu_ptr){0}, handle, 1), INVALID_CONTEXT);
	cr_assert_eq(write(sockets[0], &handle, sizeof(handle)), sizeof(handle));
	cr_assert_eq(read(sockets[0], &byte, 1), 1);
	for (uint32_t i = 0; i < WORDS; i++)
		cr_assert_eq(view(address)[i], i + 11);
	expect_cu(cuMemFree_v2(address));
	cr_assert_eq(write(sockets[0], &byte, 1), 1);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 0);
	close(sockets[0]);
	device_close();
}

Test(fake_cuda, flushes_are_counted)
{
	uint64_t before = fake_cuda_flushes();

	expect_cu(cuFlushGPUDirectRDMAWrites(KVX_CU_FLUSH_TARGET_CURRENT_CONTEXT,
					     KVX_CU_FLUSH_TO_OWNER));
	cr_assert_eq(fake_cuda_flushes(), before + 1);
	fake_cuda_set("flush", 0);
	expect_cu_error(cuFlushGPUDirectRDMAWrites(0, KVX_CU_FLUSH_TO_OWNER), NOT_SUPPORTED);
	cr_assert_eq(fake_cuda_flushes(), before + 1);
}
