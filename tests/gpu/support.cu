/* SPDX-License-Identifier: Apache-2.0 */
#include "support.cuh"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PEER_VARIABLE "KVX_GPU_PEER"
#define VMM_CHUNKS 2u

static const char *current_phase = "begin";
static const char *who = "receiver";

/* Waits for the device may stand, so nothing of CUDA or the engine is taken down here: the process
 * ends, and the driver frees what was its. */
[[noreturn]] static void leave(int status)
{
	fflush(NULL);
	_exit(status);
}

void give_up(const char *file, int line, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: %s:%d: %s: ", who, file, line, current_phase);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	leave(1);
}

void skip(const char *format, ...)
{
	va_list arguments;

	printf("skip: ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	leave(EXIT_SKIPPED);
}

void cuda_expect(cudaError_t error, const char *call, const char *file, int line)
{
	if (error != cudaSuccess)
		give_up(file, line, "%s: %s: %s", call, cudaGetErrorName(error),
			cudaGetErrorString(error));
}

void cu_expect(CUresult result, const char *call, const char *file, int line)
{
	const char *name = NULL;

	if (result == CUDA_SUCCESS)
		return;
	cuGetErrorName(result, &name);
	give_up(file, line, "%s: %s", call, name ? name : "an error that the driver cannot name");
}

void kvx_expect(int error, const char *call, const char *file, int line)
{
	if (error < 0)
		give_up(file, line, "%s: %s: %s", call, kvx_error_name(error), kvx_error_text());
}

void phase(const char *text)
{
	current_phase = text;
}

int64_t clock_ns()
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void sleep_ms(uint32_t ms)
{
	struct timespec time = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

/* ------------------------------------------------------------------------------ two processes */

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		_exit(1);
}

static void time_is_up(int)
{
	say(who);
	say(": time is up: ");
	say(current_phase);
	say("\n");
	_exit(124);
}

static void limit_waits(int fd, unsigned limit_s)
{
	struct timeval limit = {WAIT_MS / 1000, 0};

	signal(SIGPIPE, SIG_IGN);
	signal(SIGALRM, time_is_up);
	alarm(limit_s);
	check_true(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) &&
			   !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)),
		   "setsockopt: %s", strerror(errno));
}

/* In a new process, which has one thread: what it has to be told is in its environment. */
[[noreturn]] static void become_sender(int fd, char **argv)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", fd);
	setenv(PEER_VARIABLE, number, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execv("/proc/self/exe", argv);
	give_up(__FILE__, __LINE__, "execv: %s", strerror(errno));
}

void peer_start(struct peer *peer, char **argv, unsigned limit_s)
{
	const char *number = getenv(PEER_VARIABLE);
	int ends[2];

	/* What is loaded or shares a queue behind a stream that waits would wait with it. */
	setenv("CUDA_MODULE_LOADING", "EAGER", 1);
	setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
	if (number) {
		who = "sender";
		*peer = (struct peer){atoi(number), 0};
	} else {
		check_true(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), "socketpair: %s",
			   strerror(errno));
		pid_t pid = fork();
		check_true(pid >= 0, "fork: %s", strerror(errno));
		if (!pid) {
			close(ends[0]);
			become_sender(ends[1], argv);
		}
		close(ends[1]);
		*peer = (struct peer){ends[0], pid};
	}
	limit_waits(peer->fd, limit_s);
}

/* The exit status of the sender as a shell gives it. */
static int reap(const struct peer *peer)
{
	int status;

	for (uint32_t waited_ms = 0; waited_ms < WAIT_MS; waited_ms += 10) {
		pid_t pid = waitpid(peer->pid, &status, WNOHANG);
		check_true(pid >= 0, "waitpid: %s", strerror(errno));
		if (pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		sleep_ms(10);
	}
	kill(peer->pid, SIGKILL);
	give_up(__FILE__, __LINE__, "the sender does not end");
}

[[noreturn]] static void peer_ended(const struct peer *peer)
{
	if (!peer->pid)
		give_up(__FILE__, __LINE__, "the receiver has ended");
	int status = reap(peer);
	if (status == EXIT_SKIPPED)
		leave(EXIT_SKIPPED); /* it has said why */
	give_up(__FILE__, __LINE__, "the sender has ended: exit status %d", status);
}

void peer_send(const struct peer *peer, const void *packet, size_t bytes)
{
	ssize_t sent = send(peer->fd, packet, bytes, 0);

	if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
		peer_ended(peer);
	check_true(sent == (ssize_t)bytes, "send: %s", strerror(errno));
}

size_t peer_receive(const struct peer *peer, void *packet, size_t size)
{
	ssize_t bytes = recv(peer->fd, packet, size, MSG_TRUNC);

	if (bytes < 0 && errno == EAGAIN)
		give_up(__FILE__, __LINE__, "the other process says nothing for %u ms", WAIT_MS);
	if (bytes == 0 || (bytes < 0 && errno == ECONNRESET))
		peer_ended(peer);
	check_true(bytes > 0, "recv: %s", strerror(errno));
	check_true((size_t)bytes <= size, "a packet of %zd bytes came, for %zu", bytes, size);
	return (size_t)bytes;
}

void peer_tell(const struct peer *peer, int64_t number)
{
	peer_send(peer, &number, sizeof(number));
}

int64_t peer_hear(const struct peer *peer)
{
	int64_t number;

	size_t bytes = peer_receive(peer, &number, sizeof(number));
	check_true(bytes == sizeof(number), "a packet of %zu bytes came, for a number", bytes);
	return number;
}

void peer_meet(const struct peer *peer)
{
	phase("meeting the other process");
	peer_tell(peer, 0);
	peer_hear(peer);
}

void peer_kill(const struct peer *peer)
{
	check_true(!kill(peer->pid, SIGKILL), "kill: %s", strerror(errno));
	int status = reap(peer);
	check_true(status == 128 + SIGKILL, "the sender ended by itself: exit status %d", status);
}

void peer_finish(const struct peer *peer)
{
	int status = reap(peer);

	check_true(status == 0, "the sender failed: exit status %d", status);
}

/* ---------------------------------------------------------------------------- device and pool */

static void show_log(void *, enum kvx_log_level level, const char *line)
{
	if (level <= KVX_LOG_INFO)
		fprintf(stderr, "%s: kvxfer: %s\n", who, line);
}

static bool may_be_left_out(const char *transport)
{
	return strcmp(transport, "cuda_ipc") == 0;
}

static void engine_open(struct side *side)
{
	struct kvx_options *options;

	check_kvx(kvx_options_new(&options));
	kvx_options_log(options, show_log, NULL);
	check_kvx(kvx_options_set(options, "name", who));
	check_kvx(kvx_options_set(options, "transports", side->transport));
	int error = kvx_engine_open(options, &side->engine);
	if (error == KVX_E_UNSUPPORTED && may_be_left_out(side->transport))
		skip("%s", kvx_error_text());
	kvx_expect(error, "kvx_engine_open()", __FILE__, __LINE__);
	kvx_options_free(options);
}

static bool device_can(int device, CUdevice_attribute attribute)
{
	CUdevice handle;
	int value;

	check_cu(cuDeviceGet(&handle, device));
	check_cu(cuDeviceGetAttribute(&value, attribute, handle));
	return value != 0;
}

/* Several mappings side by side, as an allocator makes them that lets its segments grow. *bytes is
 * rounded up. */
static void *virtual_memory(int device, size_t *bytes)
{
	CUmemAllocationProp property;
	CUmemAccessDesc access;
	CUmemGenericAllocationHandle chunk;
	CUdeviceptr begin;
	size_t granule;

	if (!device_can(device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED))
		skip("the device has no virtual memory management");
	memset(&property, 0, sizeof(property));
	property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	property.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	property.location.id = device;
	if (device_can(device, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED))
		property.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	property.allocFlags.gpuDirectRDMACapable =
		device_can(device, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
	memset(&access, 0, sizeof(access));
	access.location = property.location;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

	check_cu(cuMemGetAllocationGranularity(&granule, &property,
					       CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
	granule *= VMM_CHUNKS;
	*bytes = (*bytes + granule - 1) / granule * granule;
	check_cu(cuMemAddressReserve(&begin, *bytes, 0, 0, 0));
	for (uint32_t i = 0; i < VMM_CHUNKS; i++) {
		size_t part = *bytes / VMM_CHUNKS;
		check_cu(cuMemCreate(&chunk, part, &property, 0));
		check_cu(cuMemMap(begin + i * part, part, 0, chunk, 0));
		check_cu(cuMemRelease(chunk)); /* the mapping holds it */
	}
	check_cu(cuMemSetAccess(begin, *bytes, &access, 1));
	return (void *)begin;
}

static void *memory_new(struct side *side, int device, size_t bytes)
{
	void *address = NULL;
	int pools = 0;

	if (strcmp(side->memory, "malloc") == 0) {
		check_cuda(cudaMalloc(&address, bytes));
	} else if (strcmp(side->memory, "vmm") == 0) {
		address = virtual_memory(device, &bytes);
	} else if (strcmp(side->memory, "async") == 0) {
		check_cuda(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device));
		if (!pools)
			skip("the device has no memory pools");
		check_cuda(cudaMallocAsync(&address, bytes, side->stream));
	} else {
		give_up(__FILE__, __LINE__, "no memory is called %s", side->memory);
	}
	/* So that what was never written is no chance's doing. */
	check_cuda(cudaMemsetAsync(address, 0xee, bytes, side->stream));
	check_cuda(cudaStreamSynchronize(side->stream));
	return address;
}

static void pool_open(struct side *side, const struct kvx_geometry *geometry)
{
	uint64_t tensor_bytes = (uint64_t)geometry->blocks * geometry->block_bytes;
	uint32_t count = geometry->layers * geometry->planes;
	struct kvx_tensor *tensors = (struct kvx_tensor *)calloc(count, sizeof(*tensors));
	struct kvx_region *region;

	check_true(tensors, "out of memory");
	check_side(side,
		   kvx_region_register(side->engine, side->address, count * tensor_bytes, &region));
	for (uint32_t i = 0; i < count; i++)
		tensors[i] = (struct kvx_tensor){region, i * tensor_bytes, 0};
	check_side(side, kvx_pool_open(side->engine, geometry, tensors, &side->pool));
	free(tensors);
}

void side_open(struct side *side, int device, const char *transport, const char *memory,
	       const struct shape *shape)
{
	struct kvx_geometry geometry;

	phase("the device, the engine and the pool");
	memset(&geometry, 0, sizeof(geometry));
	geometry.layers = shape->layers;
	geometry.planes = shape->planes;
	geometry.blocks = shape->blocks;
	geometry.block_bytes = shape->block_bytes;
	memset(side, 0, sizeof(*side));
	side->transport = transport;
	side->memory = memory;
	side->shape = *shape;
	check_cuda(cudaSetDevice(device));
	check_cuda(cudaFree(NULL)); /* makes the device's context: engines use a driver in use */
	check_cuda(cudaStreamCreateWithFlags(&side->stream, cudaStreamNonBlocking));
	engine_open(side);
	if (strcmp(memory, "host") == 0) {
		check_kvx(kvx_pool_alloc(side->engine, &geometry, &side->pool));
		side->address = kvx_pool_block(side->pool, 0, 0, 0);
		return;
	}
	side->address = memory_new(side, device,
				   (size_t)shape->layers * shape->planes * shape->blocks *
					   shape->block_bytes);
	pool_open(side, &geometry);
}

/* The device's memory is freed with the process. */
void side_close(struct side *side)
{
	phase("closing");
	kvx_engine_close(side->engine);
	check_cuda(cudaStreamDestroy(side->stream));
}

void side_expect(const struct side *side, int error, const char *call, const char *file, int line)
{
	if ((error == KVX_E_UNSUPPORTED || error == KVX_E_UNREACHABLE) &&
	    may_be_left_out(side->transport) && strcmp(side->memory, "malloc") != 0)
		skip("%s", kvx_error_text());
	kvx_expect(error, call, file, line);
}

bool stream_is_done(cudaStream_t stream, const char *what)
{
	cudaError_t error = cudaStreamQuery(stream);

	if (error != cudaErrorNotReady) {
		cuda_expect(error, what, __FILE__, __LINE__);
		return true;
	}
	cudaGetLastError(); /* "not ready" would be taken for the next call's error */
	return false;
}

void stream_finish(cudaStream_t stream, uint32_t limit_ms, const char *what)
{
	int64_t end_ns = clock_ns() + (int64_t)limit_ms * 1000000;

	while (!stream_is_done(stream, what)) {
		check_true(clock_ns() < end_ns, "%s: the GPU is not done after %u ms", what,
			   limit_ms);
		usleep(20);
	}
}
