/* SPDX-License-Identifier: Apache-2.0 */
/* A device of the fake driver, and shorter names for what tests of it do. */
#ifndef TESTS_CUDA_DEVICE_H
#define TESTS_CUDA_DEVICE_H

#include "cuda/abi.h"
#include "fake_cuda/fake_cuda.h"

#define X(member, symbol, arguments) enum kvx_cu_result symbol arguments;
KVX_CU_FUNCTIONS(X)
KVX_CU_OPTIONAL_FUNCTIONS(X)
KVX_CU_TEST_FUNCTIONS(X)
#undef X
enum kvx_cu_result cuMemGetAccess(unsigned long long *flags, const struct kvx_cu_location *location,
				  kvx_cu_ptr address);

#include <criterion/criterion.h>

#define expect_cu(call) cr_assert_eq((call), KVX_CU_SUCCESS, "%s", #call)
#define expect_cu_error(call, error) cr_assert_eq((call), KVX_CU_ERROR_##error, "%s", #call)

/* The context of device 0 becomes the thread's; all options are as they begin. */
void device_open(void);
/* And nothing may be left of it. */
void device_close(void);

kvx_cu_ptr device_new(size_t bytes);
struct kvx_cu_stream *stream_new(void);
/* Pinned, zeroed memory of the host. */
void *host_new(size_t bytes);
kvx_cu_ptr address_of(const void *address);
/* Of the bytes in the fake's own view, from that one on. */
uint32_t *view(kvx_cu_ptr address);
struct kvx_cu_function *kernel_find(struct kvx_cu_module *module, const char *name);
/* With one thread. */
enum kvx_cu_result kernel_launch(struct kvx_cu_function *function, struct kvx_cu_stream *stream,
				 void **parameters);
/* How the program ends that does this, in a process of its own: its signal, or 0. */
int signal_of(void (*act)(void *context), void *context);

#endif
