/* SPDX-License-Identifier: Apache-2.0 */
/* The driver itself, its devices, and its functions by their names. */
#include "internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_BUS 0x3au
#define BUS_STEP 0x10u

static atomic_bool initialized;
_Atomic int fake_process;

/* --- the driver --- */

EXPORT enum kvx_cu_result cuInit(unsigned int flags)
{
	if (flags)
		return KVX_CU_ERROR_INVALID_VALUE;
	if (fake_option(FAKE_absent) || !fake_option(FAKE_devices))
		return KVX_CU_ERROR_NO_DEVICE;
	if (fake_option(FAKE_devices) > DEVICES_MAX)
		fake_die("devices=%llu, at most %u", (unsigned long long)fake_option(FAKE_devices),
			 DEVICES_MAX);
	if (fake_process != getpid() && atexit(fake_contexts_leave))
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	fake_process = getpid();
	initialized = true;
	return KVX_CU_SUCCESS;
}

bool fake_initialized(void)
{
	return initialized;
}

EXPORT enum kvx_cu_result cuDriverGetVersion(int *version)
{
	*version = (int)fake_option(FAKE_version);
	return KVX_CU_SUCCESS;
}

#define RESULTS(X)                                                                        \
	X(SUCCESS, "no error")                                                            \
	X(ERROR_INVALID_VALUE, "invalid argument")                                        \
	X(ERROR_OUT_OF_MEMORY, "out of memory")                                           \
	X(ERROR_NOT_INITIALIZED, "initialization error")                                  \
	X(ERROR_NO_DEVICE, "no CUDA-capable device is detected")                          \
	X(ERROR_INVALID_DEVICE, "invalid device ordinal")                                 \
	X(ERROR_INVALID_IMAGE, "device kernel image is invalid")                          \
	X(ERROR_INVALID_CONTEXT, "invalid device context")                                \
	X(ERROR_UNSUPPORTED_PTX_VERSION, "the PTX was compiled with a newer toolchain")   \
	X(ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS") \
	X(ERROR_INVALID_HANDLE, "invalid resource handle")                                \
	X(ERROR_NOT_FOUND, "named symbol not found")                                      \
	X(ERROR_NOT_READY, "device not ready")                                            \
	X(ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")              \
	X(ERROR_HOST_MEMORY_ALREADY_REGISTERED, "host memory is registered already")      \
	X(ERROR_HOST_MEMORY_NOT_REGISTERED, "host memory is not registered")              \
	X(ERROR_NOT_SUPPORTED, "operation not supported")                                 \
	X(ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted while a stream is captured")   \
	X(ERROR_STREAM_CAPTURE_INVALIDATED, "the capture failed by an earlier error")     \
	X(ERROR_STREAM_CAPTURE_UNMATCHED, "the capture was not begun in this stream")     \
	X(ERROR_STREAM_CAPTURE_ISOLATION, "a dependency on work that is not captured")    \
	X(ERROR_CAPTURED_EVENT, "the event was recorded in a captured stream")

/* NULL, as the driver does, for what it does not know. */
EXPORT enum kvx_cu_result cuGetErrorName(enum kvx_cu_result error, const char **text)
{
	*text = NULL;
#define X(name, words)              \
	if (error == KVX_CU_##name) \
		*text = "CUDA_" #name;
	RESULTS(X)
#undef X
	return *text ? KVX_CU_SUCCESS : KVX_CU_ERROR_INVALID_VALUE;
}

EXPORT enum kvx_cu_result cuGetErrorString(enum kvx_cu_result error, const char **text)
{
	*text = NULL;
#define X(name, words)              \
	if (error == KVX_CU_##name) \
		*text = (words);
	RESULTS(X)
#undef X
	return *text ? KVX_CU_SUCCESS : KVX_CU_ERROR_INVALID_VALUE;
}

/* --- devices --- */

unsigned fake_device_count(void)
{
	return (unsigned)fake_option(FAKE_devices);
}

bool fake_is_device(kvx_cu_device id)
{
	return id >= 0 && (unsigned)id < fake_device_count();
}

static enum kvx_cu_result judge(kvx_cu_device device)
{
	if (!initialized)
		return KVX_CU_ERROR_NOT_INITIALIZED;
	return fake_is_device(device) ? KVX_CU_SUCCESS : KVX_CU_ERROR_INVALID_DEVICE;
}

EXPORT enum kvx_cu_result cuDeviceGetCount(int *count)
{
	if (!initialized)
		return KVX_CU_ERROR_NOT_INITIALIZED;
	*count = (int)fake_device_count();
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuDeviceGet(kvx_cu_device *device, int ordinal)
{
	enum kvx_cu_result result = judge(ordinal);

	if (!result)
		*device = ordinal;
	return result;
}

EXPORT enum kvx_cu_result cuDeviceGetName(char *name, int size, kvx_cu_device device)
{
	enum kvx_cu_result result = judge(device);

	if (!result)
		snprintf(name, (size_t)size, "Fake GPU");
	return result;
}

/* "0000:3a:00.0" in numbers; false: the variable has no such address. */
static bool pci_address(kvx_cu_device device, unsigned *domain, unsigned *bus, unsigned *slot)
{
	const char *text = getenv("FAKE_CUDA_PCI");

	*domain = *slot = 0;
	*bus = FIRST_BUS + (unsigned)device * BUS_STEP;
	if (!text)
		return true;
	for (int i = 0; i < device && text; i++)
		text = strchr(text, ',') ? strchr(text, ',') + 1 : NULL;
	return text && sscanf(text, "%x:%x:%x.0", domain, bus, slot) == 3;
}

static void pci_address_or_die(kvx_cu_device device, unsigned *domain, unsigned *bus,
			       unsigned *slot)
{
	if (!pci_address(device, domain, bus, slot))
		fake_die("FAKE_CUDA_PCI: no address for device %d", device);
}

EXPORT enum kvx_cu_result cuDeviceGetPCIBusId(char *name, int size, kvx_cu_device device)
{
	enum kvx_cu_result result = judge(device);
	unsigned domain, bus, slot;

	if (result)
		return result;
	pci_address_or_die(device, &domain, &bus, &slot);
	snprintf(name, (size_t)size, "%04X:%02X:%02X.0", domain, bus, slot);
	return KVX_CU_SUCCESS;
}

static int pci_part(enum kvx_cu_device_attribute attribute, kvx_cu_device device)
{
	unsigned domain, bus, slot;

	pci_address_or_die(device, &domain, &bus, &slot);
	return (int)(attribute == KVX_CU_DEVICE_PCI_DOMAIN ? domain
		     : attribute == KVX_CU_DEVICE_PCI_BUS  ? bus
							   : slot);
}

EXPORT enum kvx_cu_result cuDeviceGetAttribute(int *value, enum kvx_cu_device_attribute attribute,
					       kvx_cu_device device)
{
	enum kvx_cu_result result = judge(device);

	if (result)
		return result;
	switch (attribute) {
	case KVX_CU_DEVICE_MULTIPROCESSORS:
		*value = 1;
		break;
	case KVX_CU_DEVICE_INTEGRATED:
		*value = 0;
		break;
	case KVX_CU_DEVICE_PCI_DOMAIN:
	case KVX_CU_DEVICE_PCI_BUS:
	case KVX_CU_DEVICE_PCI_DEVICE:
		*value = pci_part(attribute, device);
		break;
	case KVX_CU_DEVICE_ASYNC_ENGINES:
		*value = 2;
		break;
	case KVX_CU_DEVICE_CAPABILITY_MAJOR:
		*value = 9;
		break;
	case KVX_CU_DEVICE_CAPABILITY_MINOR:
		*value = 0;
		break;
	case KVX_CU_DEVICE_UNIFIED_ADDRESSING:
	case KVX_CU_DEVICE_HOST_POINTER_FOR_REGISTERED:
	case KVX_CU_DEVICE_HOST_REGISTER:
	case KVX_CU_DEVICE_VIRTUAL_MEMORY:
	case KVX_CU_DEVICE_GPU_DIRECT_RDMA_WITH_VMM:
	case KVX_CU_DEVICE_MEMORY_POOLS:
	case KVX_CU_DEVICE_GPU_DIRECT_RDMA:
		*value = 1;
		break;
	case KVX_CU_DEVICE_STREAM_MEM_OPS_V1:
	case KVX_CU_DEVICE_FLUSH_REMOTE_WRITES:
		*value = fake_option(FAKE_memops) != 0;
		break;
	case KVX_CU_DEVICE_FLUSH_OPTIONS:
		*value = fake_option(FAKE_flush) ? KVX_CU_FLUSH_OPTION_HOST : 0;
		break;
	case KVX_CU_DEVICE_WRITES_ORDERING:
		*value = (int)fake_option(FAKE_ordering);
		break;
	case KVX_CU_DEVICE_DMA_BUF:
		*value = fake_option(FAKE_dmabuf) != 0;
		break;
	default:
		return KVX_CU_ERROR_INVALID_VALUE;
	}
	return KVX_CU_SUCCESS;
}

/* --- functions by their names --- */

typedef void (*any_function)(void);

/* Not to be found by its symbol: with that another version's arguments would be meant. */
#define X(member, symbol, version, arguments) enum kvx_cu_result symbol arguments;
KVX_CU_VERSIONED_FUNCTIONS(X)
#undef X

struct row {
	const char *symbol;
	int version;
	any_function function;
};

static const struct row rows[] = {
#define X(member, symbol, arguments) {#symbol, 0, (any_function)symbol},
	KVX_CU_FUNCTIONS(X) KVX_CU_OPTIONAL_FUNCTIONS(X) KVX_CU_TEST_FUNCTIONS(X)
#undef X
#define X(member, symbol, version, arguments) {#symbol, version, (any_function)symbol},
		KVX_CU_VERSIONED_FUNCTIONS(X)
#undef X
};

/* A program asks for cuMemAlloc and gets cuMemAlloc_v2. */
static const struct row *find_row(const char *name)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *rest = rows[i].symbol + length;
		if (strncmp(rows[i].symbol, name, length) == 0 &&
		    (!*rest || (strncmp(rest, "_v", 2) == 0 && isdigit(rest[2]) && !rest[3])))
			return &rows[i];
	}
	return NULL;
}

EXPORT enum kvx_cu_result cuGetProcAddress_v2(const char *symbol, void **function, int version,
					      uint64_t flags, enum kvx_cu_symbol_status *status)
{
	const struct row *row = find_row(symbol);
	enum kvx_cu_symbol_status found = KVX_CU_SYMBOL_FOUND;

	if (flags != KVX_CU_SYMBOL_DEFAULT)
		return KVX_CU_ERROR_INVALID_VALUE;
	if (row && row->version && !fake_option(FAKE_batch))
		row = NULL;
	if (!row)
		found = KVX_CU_SYMBOL_NOT_FOUND;
	else if (version < row->version)
		found = KVX_CU_SYMBOL_VERSION_NOT_SUFFICIENT;
	else if (row->version && version > row->version)
		fake_die("%s of version %d has other arguments", symbol, version);
	*function = found ? NULL : *(void *const *)&row->function;
	if (status)
		*status = found;
	return KVX_CU_SUCCESS;
}
