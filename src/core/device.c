/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device.h"

#include "base/error.h"
#include "core/engine.h"
#include "core/grant.h"
#include "core/peer.h"
#include "core/region.h"
#include "core/stream.h"

#include <stdio.h>
#include <stdlib.h>

#define RING_BYTES_MIN (UINT64_C(4) * KVX_BATCH_BYTES_MAX) /* a batch lands whole or not at all */
#define BUFFERS_MIN 4u
#define NUMA_UNKNOWN (-1)

/* --- making one --- */

static int numa_of(const char *pci)
{
	char path[96], text[16] = "";

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/numa_node", pci);
	FILE *file = fopen(path, "re");
	if (!file)
		return NUMA_UNKNOWN;
	char *end = text;
	long numa = fgets(text, sizeof(text), file) ? strtol(text, &end, 10) : NUMA_UNKNOWN;
	fclose(file);
	return end > text && numa >= 0 && numa <= INT16_MAX ? (int)numa : NUMA_UNKNOWN;
}

/* Half of option staging_bytes for each direction, so that what is to be sent never keeps what
 * comes from landing. */
static int make_staging(struct kvx_device *device)
{
	uint64_t half = device->engine->options.staging_bytes / 2;
	uint64_t ring = half > RING_BYTES_MIN ? half : RING_BYTES_MIN;
	uint32_t buffers = (uint32_t)(half / KVX_BUFFER_BYTES);

	buffers = buffers > BUFFERS_MIN ? buffers : BUFFERS_MIN;
	ring -= ring % KVX_BUFFER_BYTES;
	uint64_t bytes = (uint64_t)buffers * KVX_BUFFER_BYTES + ring;
	device->next_buffer = calloc(buffers + 1, sizeof(*device->next_buffer));
	device->pending = calloc(KVX_PENDING_MAX, sizeof(*device->pending));
	if (!device->next_buffer || !device->pending)
		return kvx_fail(KVX_E_MEMORY, "%s %u: out of memory", device->kind->name,
				device->number);
	int error = kvx_region_alloc_near(device->engine, bytes, numa_of(device->pci),
					  &device->staging);
	if (error)
		return error;
	for (uint32_t i = 1; i < buffers; i++)
		device->next_buffer[i] = i + 1;
	device->free_buffer = 1;
	device->landing.begin = (char *)kvx_region_address(device->staging) + bytes - ring;
	device->landing.size = ring;
	return device->kind->pin(device->copier, kvx_region_address(device->staging), bytes);
}

static void free_device(struct kvx_device *device)
{
	if (device->copier) {
		if (device->staging)
			device->kind->unpin(device->copier, kvx_region_address(device->staging));
		device->kind->close(device->copier);
	}
	free(device->next_buffer);
	free(device->pending);
	free(device);
}

static int make(struct kvx_engine *engine, const struct kvx_memory_kind *kind, uint32_t number,
		struct kvx_device **device)
{
	char model[64];
	struct kvx_device *made = calloc(1, sizeof(*made));

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "%s %u: out of memory", kind->name, number);
	made->engine = engine;
	made->kind = kind;
	made->number = number;
	int error = kind->describe(number, made->pci, model, sizeof(model));
	if (!error)
		error = kind->open(number, &made->copier);
	if (!error)
		error = make_staging(made);
	if (error) {
		if (made->staging)
			kvx_region_close(made->staging);
		free_device(made);
		return error;
	}
	*device = made;
	return 0;
}

int kvx_device_find(struct kvx_engine *engine, const struct kvx_memory_kind *kind, uint32_t number,
		    struct kvx_device **device)
{
	struct kvx_devices *devices = &engine->devices;
	int error = 0;

	pthread_mutex_lock(&devices->mutex);
	uint32_t count = atomic_load_explicit(&devices->count, memory_order_relaxed);
	bool known = false;
	for (uint32_t i = 0; i < count && !known; i++) {
		*device = devices->list[i];
		known = (*device)->kind == kind && (*device)->number == number;
	}
	if (!known && count == KVX_DEVICES_MAX)
		error = kvx_fail(KVX_E_LIMIT, "%s %u: this engine has memory of %u devices already",
				 kind->name, number, count);
	else if (!known)
		error = make(engine, kind, number, device);
	if (!known && !error) {
		devices->list[count] = *device;
		atomic_store_explicit(&devices->count, count + 1, memory_order_release);
	}
	pthread_mutex_unlock(&devices->mutex);
	return error;
}

void kvx_devices_finish(struct kvx_engine *engine)
{
	uint32_t count = atomic_load(&engine->devices.count);

	for (uint32_t i = 0; i < count; i++)
		free_device(engine->devices.list[i]);
	atomic_store(&engine->devices.count, 0);
}

/* --- copies --- */

bool kvx_device_copy(struct kvx_device *device, const struct kvx_copy *copies, uint32_t count,
		     const struct kvx_pending *pending)
{
	uint64_t number;

	if (device->failed || device->pending_tail - device->pending_head == KVX_PENDING_MAX)
		return false;
	if (device->kind->copy(device->copier, copies, count, &number)) {
		kvx_device_fail(device, kvx_error_text());
		return false;
	}
	struct kvx_pending *added = &device->pending[device->pending_tail++ % KVX_PENDING_MAX];
	*added = *pending;
	added->number = number;
	if (added->stream)
		added->stream->lifting++;
	if (added->grant)
		added->grant->landing++;
	return true;
}

/* Its copies are done, or will never be. */
static void settle(struct kvx_device *device, const struct kvx_pending *pending)
{
	device->landing.tail += pending->bytes;
	if (pending->stream)
		kvx_stream_lifted(pending->stream);
	if (!pending->grant)
		return;
	pending->grant->landing--;
	if (pending->whole)
		kvx_arrival_copied(device->engine, pending);
	if (!pending->grant->landing && kvx_transfer_ended(&pending->grant->transfer))
		kvx_grant_acknowledge(pending->grant);
}

static int settle_copied(struct kvx_device *device)
{
	uint32_t before = device->pending_head;

	while (device->pending_head != device->pending_tail) {
		struct kvx_pending pending =
			device->pending[device->pending_head % KVX_PENDING_MAX];
		if (pending.number > device->copied)
			break;
		device->pending_head++;
		settle(device, &pending);
	}
	return (int)(device->pending_head - before);
}

static int progress(struct kvx_device *device)
{
	uint64_t copied;

	if (device->failed || device->pending_head == device->pending_tail)
		return 0;
	if (device->kind->copied(device->copier, &copied)) {
		kvx_device_fail(device, kvx_error_text());
		return 1;
	}
	device->copied = copied;
	settle_copied(device);
	return (int)(device->pending_tail - device->pending_head) + 1;
}

int kvx_devices_progress(struct kvx_engine *engine)
{
	uint32_t count = atomic_load_explicit(&engine->devices.count, memory_order_acquire);
	int done = 0;

	for (uint32_t i = 0; i < count; i++)
		done += progress(engine->devices.list[i]);
	return done;
}

/* --- failure --- */

static void end_grants(struct kvx_device *device, const char *text)
{
	for (uint32_t slot = 0; slot < KVX_GRANTS_MAX; slot++) {
		struct kvx_grant *grant =
			atomic_load_explicit(&device->engine->slots[slot], memory_order_acquire);
		if (grant && (grant->pool->memories[0]->device == device ||
			      (grant->tail.bytes && grant->tail_place.memory->device == device)))
			kvx_grant_end(grant, KVX_E_TRANSPORT, text);
	}
}

static void end_streams(struct kvx_device *device, const char *text)
{
	for (uint32_t i = 0; i < device->engine->stream_table_size; i++) {
		struct kvx_stream *stream = device->engine->stream_table[i];
		if (stream &&
		    (stream->pool->memories[0]->device == device ||
		     (stream->tail.bytes && stream->tail.region->memory.device == device)))
			kvx_stream_end(stream, KVX_E_TRANSPORT, text, true);
	}
}

void kvx_device_fail(struct kvx_device *device, const char *text)
{
	char reason[KVX_ERROR_TEXT_MAX + 1];

	if (device->failed)
		return;
	snprintf(reason, sizeof(reason), "%s", text);
	snprintf(device->why, sizeof(device->why), "%s", reason);
	atomic_store_explicit(&device->failed, true, memory_order_release);
	kvx_log_write(&device->engine->options.log, KVX_LOG_ERROR, "%s %u: %s", device->kind->name,
		      device->number, reason);
	end_grants(device, reason);
	end_streams(device, reason);
	device->copied = UINT64_MAX;
	settle_copied(device);
}

/* --- buffers --- */

uint32_t kvx_device_take_buffer(struct kvx_device *device)
{
	uint32_t taken = device->free_buffer;

	if (taken)
		device->free_buffer = device->next_buffer[taken];
	return taken;
}

char *kvx_device_buffer(const struct kvx_device *device, uint32_t buffer)
{
	return (char *)kvx_region_address(device->staging) +
	       (uint64_t)(buffer - 1) * KVX_BUFFER_BYTES;
}

void kvx_device_give_buffer(struct kvx_device *device, uint32_t buffer)
{
	device->next_buffer[buffer] = device->free_buffer;
	device->free_buffer = buffer;
}
