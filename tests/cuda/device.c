/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/device.h"

#include "support/sanitized.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

void device_open(void)
{
	struct kvx_cu_context *context;

#define X(name, value) fake_cuda_set(#name, (value));
	FAKE_CUDA_OPTIONS(X)
#undef X
	expect_cu(cuInit(0));
	expect_cu(cuDevicePrimaryCtxRetain(&context, 0));
	expect_cu(cuCtxPushCurrent_v2(context));
}

void device_close(void)
{
	uint64_t leaked = fake_cuda_leaked();

	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(0));
	cr_assert_eq(fake_cuda_leaked(), leaked, "not all was given back");
	cr_assert_eq(fake_cuda_live(), 0);
}

kvx_cu_ptr device_new(size_t bytes)
{
	kvx_cu_ptr address;

	expect_cu(cuMemAlloc_v2(&address, bytes));
	return address;
}

struct kvx_cu_stream *stream_new(void)
{
	struct kvx_cu_stream *stream;

	expect_cu(cuStreamCreate(&stream, KVX_CU_STREAM_NON_BLOCKING));
	return stream;
}

void *host_new(size_t bytes)
{
	void *address;

	expect_cu(cuMemHostAlloc(&address, bytes, KVX_CU_HOST_ALLOC_PORTABLE));
	memset(address, 0, bytes);
	return address;
}

kvx_cu_ptr address_of(const void *address)
{
	return (uintptr_t)address;
}

uint32_t *view(kvx_cu_ptr address)
{
	return fake_cuda_view((const void *)(uintptr_t)address);
}

struct kvx_cu_function *kernel_find(struct kvx_cu_module *module, const char *name)
{
	struct kvx_cu_function *function;

	expect_cu(cuModuleGetFunction(&function, module, name));
	return function;
}

enum kvx_cu_result kernel_launch(struct kvx_cu_function *function, struct kvx_cu_stream *stream,
				 void **parameters)
{
	return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

int signal_of(void (*act)(void *context), void *context)
{
	SKIP_FORKS();
	pid_t child = fork();
	int status;

	cr_assert_geq(child, 0);
	if (!child) {
		/* A sanitizer's or the test runner's handlers would make something else of it. */
		setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		signal(SIGSEGV, SIG_DFL);
		signal(SIGABRT, SIG_DFL);
		act(context);
		_exit(0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
