/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TEXT_MAX 255u

void kvx_verbs_bytes_format(uint64_t bytes, char *text, size_t size)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	uint32_t unit = 0;

	while (unit + 1 < sizeof(units) / sizeof(units[0]) && bytes >> (10 * (unit + 1)))
		unit++;
	uint64_t whole = bytes >> (10 * unit);
	uint64_t rest = bytes - (whole << (10 * unit));
	if (rest)
		snprintf(text, size, "%.1f %s",
			 (double)bytes / (double)(UINT64_C(1) << (10 * unit)), units[unit]);
	else
		snprintf(text, size, "%llu %s", (unsigned long long)whole, units[unit]);
}

/* Drivers pass on what the kernel answers, or make it EAGAIN or EPERM. */
static bool is_shortage(int error)
{
	return error == ENOMEM || error == EAGAIN || error == EPERM;
}

void kvx_verbs_shortage_format(int error, uint64_t bytes, char *text, size_t size)
{
	static const char change[] = "raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)";
	struct rlimit limit;
	char limited[32];

	if (!is_shortage(error) || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 ||
	    limit.rlim_cur == RLIM_INFINITY) {
		snprintf(text, size, "%s", strerror(error));
		return;
	}
	kvx_verbs_bytes_format(limit.rlim_cur, limited, sizeof(limited));
	if (limit.rlim_cur < bytes)
		snprintf(text, size, "locked-memory limit is %s; %s", limited, change);
	else
		snprintf(text, size, "%s; locked-memory limit is %s, for all that is locked; %s",
			 strerror(error), limited, change);
}

static int fail_attach(const struct kvx_verbs_device *device, const struct kvx_memory *memory,
		       int error)
{
	char bytes[32], text[TEXT_MAX + 1];
	const char *change = "";

	kvx_verbs_bytes_format(memory->bytes, bytes, sizeof(bytes));
	kvx_verbs_shortage_format(error, memory->bytes, text, sizeof(text));
	if (memory->dmabuf >= 0 && !is_shortage(error))
		change = "; the device does not take dma-buf: use a driver and a kernel that do, "
			 "or leave the device out of verbs_devices";
	return kvx_fail(KVX_E_MEMORY, "%s: cannot register %s%s: %s%s", device->name, bytes,
			memory->dmabuf >= 0 ? " of a dma-buf" : "", text, change);
}

/* One chunk, with the extras of `access` that the device takes. NULL: errno. */
static struct ibv_mr *register_chunk(const struct kvx_verbs_device *device,
				     const struct kvx_memory *memory, uint64_t offset,
				     unsigned access)
{
	const struct kvx_transport *transport = device->transport;
	uint64_t left = memory->bytes - offset;
	size_t bytes = left < transport->chunk_bytes ? left : transport->chunk_bytes;
	char *address = memory->address + offset;

	if (memory->dmabuf >= 0)
		return ibv_reg_dmabuf_mr(device->pd, memory->dmabuf_offset + offset, bytes,
					 (uintptr_t)address, memory->dmabuf, (int)access);
	return ibv_reg_mr(device->pd, address, bytes, access);
}

static bool is_refusal(int error)
{
	return error == EINVAL || error == EOPNOTSUPP;
}

static struct ibv_mr *register_relaxed(const struct kvx_verbs_device *device,
				       const struct kvx_memory *memory, uint64_t offset,
				       unsigned access)
{
	if (device->transport->context->options->verbs_relaxed_ordering) {
		struct ibv_mr *mr = register_chunk(device, memory, offset,
						   access | IBV_ACCESS_RELAXED_ORDERING);
		if (mr || !is_refusal(errno))
			return mr;
	}
	return register_chunk(device, memory, offset, access);
}

/* Peers reach it through windows alone, where there are any. Kernels that bind none to dma-bufs
 * refuse them by the first chunk. */
int kvx_verbs_register(const struct kvx_verbs_device *device, const struct kvx_memory *memory,
		       struct kvx_verbs_memory *known)
{
	const unsigned remote = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
	unsigned extra = device->windows ? IBV_ACCESS_MW_BIND : remote;
	struct ibv_mr **mrs = &known->mrs[(size_t)device->index * known->chunks];

	for (uint32_t i = 0; i < known->chunks; i++) {
		uint64_t offset = i * device->transport->chunk_bytes;
		mrs[i] = register_relaxed(device, memory, offset, IBV_ACCESS_LOCAL_WRITE | extra);
		if (!mrs[i] && i == 0 && memory->dmabuf >= 0 && device->windows &&
		    is_refusal(errno)) {
			extra = remote;
			known->windowless |= 1u << device->index;
			mrs[i] = register_relaxed(device, memory, offset,
						  IBV_ACCESS_LOCAL_WRITE | extra);
		}
		if (!mrs[i])
			return fail_attach(device, memory, errno);
	}
	return 0;
}

static void deregister(struct kvx_transport *transport, struct kvx_verbs_memory *known)
{
	for (uint32_t i = 0; i < transport->device_count * known->chunks; i++) {
		int error = known->mrs[i] ? ibv_dereg_mr(known->mrs[i]) : 0;
		if (error)
			kvx_log_write(transport->context->log, KVX_LOG_ERROR,
				      "%s: cannot deregister memory: %s",
				      transport->devices[i / known->chunks].name, strerror(error));
	}
	free(known);
}

/* A port of the device may be used for the memory. */
static bool serves(const struct kvx_verbs_device *device, const struct kvx_memory *memory)
{
	const struct kvx_transport *transport = device->transport;

	for (uint32_t i = 0; i < transport->port_count && !device->dead; i++)
		if (transport->ports[i].device == device &&
		    kvx_verbs_nearness(transport, memory, &transport->ports[i]))
			return true;
	return false;
}

int kvx_verbs_attach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	uint64_t chunks = (memory->bytes + transport->chunk_bytes - 1) / transport->chunk_bytes;
	struct kvx_verbs_memory *known = NULL;

	if (chunks <= UINT32_MAX / KVX_VERBS_DEVICES_MAX)
		known = calloc(1, sizeof(*known) + transport->device_count * (size_t)chunks *
							   sizeof(struct ibv_mr *));
	if (!known)
		return kvx_fail(KVX_E_MEMORY, "verbs: no memory for %llu registrations",
				(unsigned long long)chunks * transport->device_count);
	known->chunks = (uint32_t)chunks;
	for (uint32_t i = 0; i < transport->device_count; i++) {
		const struct kvx_verbs_device *device = &transport->devices[i];
		int error = serves(device, memory) ? kvx_verbs_register(device, memory, known) : 0;
		if (error && !device->dead) {
			deregister(transport, known);
			return error;
		}
	}
	memory->registered[transport->context->index] = known;
	return 0;
}

void kvx_verbs_detach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	struct kvx_verbs_memory *known = memory->registered[transport->context->index];

	memory->registered[transport->context->index] = NULL;
	if (known)
		deregister(transport, known);
}
