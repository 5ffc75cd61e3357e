/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA driver, found when it is first needed: a table of its functions, its devices and the
 * library's kernels. Where there is none everything says so and nothing else happens.
 *
 * Work is done in a device's primary context, which the CUDA runtime and what stands upon it use
 * too. Each is retained once and never released, and the driver stays loaded: at the process's end
 * the driver may be gone before the library is, and there is no moment before at which the library
 * could know that no memory of the caller lives in the context. Nothing of the library's is known
 * to the driver meanwhile, neither callback nor thread, so that it may be unloaded with dlclose().
 */
#ifndef KVX_CUDA_DRIVER_H
#define KVX_CUDA_DRIVER_H

#include "cuda/abi.h"

#include <stdbool.h>
#include <stdint.h>

#define KVX_CUDA_DEVICES_MAX 64u /* further ones are not seen */

/* As KVX_CU_OPTIONAL_FUNCTIONS. */
#define KVX_CUDA_OPTIONAL_FUNCTIONS(X)    \
	/* 10.2 */                        \
	X(mem_get_access, cuMemGetAccess, \
	  (unsigned long long *flags, const struct kvx_cu_location *location, kvx_cu_ptr address))

/* The functions. Those of the optional lists may be NULL. */
struct kvx_cu {
#define MEMBER(name, symbol, arguments) enum kvx_cu_result(*name) arguments;
#define VERSIONED_MEMBER(name, symbol, version, arguments) MEMBER(name, symbol, arguments)
	KVX_CU_FUNCTIONS(MEMBER)
	KVX_CU_OPTIONAL_FUNCTIONS(MEMBER)
	KVX_CUDA_OPTIONAL_FUNCTIONS(MEMBER)
	KVX_CU_VERSIONED_FUNCTIONS(VERSIONED_MEMBER)
#undef VERSIONED_MEMBER
#undef MEMBER
};

enum kvx_cuda_kernel {
	KVX_CUDA_SIGNAL, /* (uint32_t *word), one thread: adds 1 for the host to see */
	KVX_CUDA_WAIT,   /* (const uint32_t *word, uint32_t value), one thread: until (int32_t)(word
			  * - value) >= 0 */
	KVX_CUDA_GATHER, /* (const struct kvx_copy *copies, uint32_t count), any number of blocks */
	KVX_CUDA_KERNELS,
};

/* Constant once it is known. */
struct kvx_cuda_device {
	struct kvx_cu_context *context;
	struct kvx_cu_function *kernels[KVX_CUDA_KERNELS]; /* NULL: the driver did not take it */
	kvx_cu_device handle;
	int writes_ordering;      /* kvx_cu_writes_ordering */
	int flush_options;        /* kvx_cu_flush_option */
	bool exports_dmabuf;      /* of memory that it allocated */
	bool unified;             /* one address space with the host and the other devices */
	bool reads_host_pointers; /* pinned memory has the same address on the device */
	bool has_stream_memory_operations; /* cuStreamWriteValue32() and cuStreamWaitValue32() work
					    */
};

/* The functions, or NULL if there is no driver or no device, or if this process was forked from one
 * that had them; kvx_cuda_why() says which, for good. Any thread; the first call initialises the
 * driver, which takes up to seconds. */
const struct kvx_cu *kvx_cuda(void);
const char *kvx_cuda_why(void);

/* Does anyone in this process use CUDA already? Where nobody does, no address is a device's. Any
 * thread. Neither loads nor initialises the driver: a process that only could use CUDA may fork
 * into others that do. */
bool kvx_cuda_is_used(void);

/* Any thread. 0 where there is no driver. */
uint32_t kvx_cuda_device_count(void);

/* The device of that number, as the CUDA runtime counts; the first call for each makes its context
 * and loads the kernels. KVX_E_UNSUPPORTED with kvx_cuda_why(), KVX_E_INVALID: no such device,
 * KVX_E_TRANSPORT: it does not work. Any thread. */
int kvx_cuda_device(uint32_t number, const struct kvx_cuda_device **device);

/* Makes the device's context the calling thread's, and leave gives back what was there. Between the
 * two the thread may call what would spoil another thread's stream capture otherwise, such as the
 * query of an event. Pairs may be nested. Errors: as above. */
int kvx_cuda_enter(uint32_t number);
void kvx_cuda_leave(void);

/* As kvx_fail(): the text is what the arguments say, the error's name, and what to change. The
 * format says what could not be done: "cuda:0: cannot copy 4096 bytes". */
int kvx_cuda_fail(int code, enum kvx_cu_result result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__
#define kvx_cuda_fail(code, ...) (kvx_cuda_fail(code, __VA_ARGS__), (code))
#endif

#endif
