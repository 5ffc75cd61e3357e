/* SPDX-License-Identifier: Apache-2.0 */
#include "shm.h"

#include "base/error.h"
#include "memory/kind.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The id that the kernel draws when it boots: tells hosts apart. */
static int read_boot_id(const char *name, char *boot_id, size_t size)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, boot_id, size - 1);

	if (fd >= 0)
		close(fd);
	if (length <= 0 && (errno == EMFILE || errno == ENFILE))
		return kvx_fail(KVX_E_SYSTEM, "%s: boot id: %s; raise RLIMIT_NOFILE", name,
				strerror(errno));
	if (length <= 0)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"%s: /proc/sys/kernel/random/boot_id cannot be read; is /proc "
				"mounted?",
				name);
	boot_id[length] = 0;
	boot_id[strcspn(boot_id, "\n")] = 0;
	return 0;
}

static int open_over(const struct shm_medium *medium, const struct kvx_transport_context *context,
		     struct kvx_transport **out)
{
	struct kvx_transport *transport = calloc(1, sizeof(*transport));

	if (!transport)
		return kvx_fail(KVX_E_MEMORY, "%s: out of memory", medium->ops->name);
	transport->context = *context;
	transport->medium = medium;
	kvx_list_init(&transport->lanes);
	kvx_list_init(&transport->orphans);
	kvx_list_init(&transport->half_made);

	int error = read_boot_id(medium->ops->name, transport->boot_id, sizeof(transport->boot_id));
	if (!error)
		error = kvx_shm_listen(transport);
	if (error) {
		free(transport);
		return error;
	}
	*out = transport;
	return 0;
}

static int shm_open_transport(const struct kvx_transport_context *context,
			      struct kvx_transport **out)
{
	return open_over(&kvx_shm_host, context, out);
}

static void shm_close(struct kvx_transport *transport)
{
	kvx_shm_unlisten(transport);
	free(transport);
}

static int cuda_ipc_open(const struct kvx_transport_context *context, struct kvx_transport **out)
{
	struct kvx_transport *transport;
	int error = kvx_memory_cuda.available();

	if (!error)
		error = open_over(&kvx_shm_gpu, context, &transport);
	if (error)
		return error;
	error = kvx_shm_gpu_open(transport);
	if (error) {
		shm_close(transport);
		return error;
	}
	*out = transport;
	return 0;
}

/* Frees those whose copies are done, or all of them. Returns how many are left. */
static int free_orphans(struct kvx_transport *transport, bool all)
{
	struct kvx_list *entry, *following;
	int left = 0;

	kvx_list_for_each (entry, following, &transport->orphans) {
		struct kvx_lane *lane = kvx_container_of(entry, struct kvx_lane, entry);
		kvx_lane_settle(lane);
		if (all || lane->taken_head == lane->taken_tail)
			kvx_shm_link_free((struct shm_link *)lane);
		else
			left++;
	}
	return left;
}

static void cuda_ipc_close(struct kvx_transport *transport)
{
	kvx_shm_gpu_stop(transport);
	free_orphans(transport, true);
	kvx_shm_gpu_close(transport);
	shm_close(transport);
}

static const char *shm_address(const struct kvx_transport *transport)
{
	return transport->address;
}

/* Splits "name@boot id"; the parts have no other form that could do harm. */
static int parse_address(const char *transport, const char *address, char *name, char *boot_id)
{
	const char *at = strchr(address, '@');
	size_t name_length = at ? (size_t)(at - address) : 0;

	if (!at || strncmp(address, "kvxfer-", 7) != 0 || name_length > SHM_NAME_MAX ||
	    strlen(at + 1) == 0 || strlen(at + 1) > SHM_BOOT_ID_MAX)
		return kvx_fail(KVX_E_INVALID,
				"%s: address \"%s\" is not of the form kvxfer-NUMBER-USER@BOOT_ID",
				transport, address);
	memcpy(name, address, name_length);
	name[name_length] = 0;
	memcpy(boot_id, at + 1, strlen(at + 1) + 1);
	return 0;
}

static int resolve_for(const char *transport, const char *address, char *resolved, size_t size)
{
	char name[SHM_NAME_MAX + 1], boot_id[SHM_BOOT_ID_MAX + 1];
	int error = parse_address(transport, address, name, boot_id);

	if (error)
		return error;
	if ((size_t)snprintf(resolved, size, "%s", address) >= size)
		return kvx_fail(KVX_E_INVALID, "%s: no room for the address", transport);
	return 0;
}

static int shm_resolve(const char *address, char *resolved, size_t size)
{
	return resolve_for("shm", address, resolved, size);
}

static int cuda_ipc_resolve(const char *address, char *resolved, size_t size)
{
	return resolve_for("cuda_ipc", address, resolved, size);
}

static int shm_connect(struct kvx_transport *transport, const char *address, struct kvx_link **out)
{
	char name[SHM_NAME_MAX + 1], boot_id[SHM_BOOT_ID_MAX + 1];
	const char *transport_name = transport->medium->ops->name;
	int error = parse_address(transport_name, address, name, boot_id);

	if (error)
		return error;
	if (strcmp(boot_id, transport->boot_id) != 0)
		return kvx_fail(KVX_E_UNREACHABLE,
				"%s: other host: boot id %s is not this host's %s", transport_name,
				boot_id, transport->boot_id);

	struct shm_link *link = kvx_shm_link_new(transport, true);
	if (!link)
		return KVX_E_MEMORY;
	memcpy(link->name, name, sizeof(name));
	error = kvx_shm_knock(link);
	if (error) {
		kvx_shm_link_free(link);
		return error;
	}
	kvx_list_append(&transport->lanes, &link->lane.entry);
	*out = &link->lane.link;
	return 0;
}

static void shm_disconnect(struct kvx_link *link)
{
	struct shm_link *shm = (struct shm_link *)link;

	if (shm->lane.up && !shm->lane.down) {
		kvx_lane_withdraw(&shm->lane, NULL, false);
		kvx_lane_flush(&shm->lane);
	}
	kvx_shm_link_free(shm);
}

/* What is under way goes on to the receiver's blocks, and out of memory that must stay open. */
static void cuda_ipc_disconnect(struct kvx_link *link)
{
	struct shm_link *shm = (struct shm_link *)link;

	if (shm->lane.taken_head == shm->lane.taken_tail) {
		shm_disconnect(link);
		return;
	}
	kvx_lane_flush(&shm->lane);
	kvx_lane_fail(&shm->lane, KVX_E_CANCELLED, "cuda_ipc: disconnected");
	kvx_shm_silence(&shm->lane);
	kvx_list_remove(&shm->lane.entry);
	kvx_list_append(&link->transport->orphans, &shm->lane.entry);
}

static bool shm_post(struct kvx_link *link, uint32_t rail, const struct kvx_batch *batch)
{
	struct shm_link *shm = (struct shm_link *)link;

	if (!shm->lane.up || shm->lane.failure || !shm->connector || !kvx_shm_announce(shm, batch))
		return false;
	return kvx_lane_post(link, rail, batch);
}

/* The peer may go on reading its mapping for a while: that does no harm here, and does not count
 * there. */
static void shm_withdraw(struct kvx_link *link, struct kvx_flow *flow)
{
	if (((struct shm_link *)link)->shared)
		kvx_lane_withdraw((struct kvx_lane *)link, flow, false);
}

static void shm_forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &transport->lanes) {
		struct shm_link *link =
			(struct shm_link *)kvx_container_of(entry, struct kvx_lane, entry);
		if (link->connector && link->lane.up && !link->lane.failure)
			kvx_shm_forget(link, memory->index);
	}
}

static int shm_progress(struct kvx_transport *transport, int64_t now_ns)
{
	kvx_shm_meet_progress(transport, now_ns);
	return kvx_lane_progress(&transport->lanes);
}

static bool shm_arm(struct kvx_transport *transport)
{
	return kvx_lane_arm(&transport->lanes);
}

static int cuda_ipc_progress(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *following;
	int count = 0;

	kvx_shm_gpu_progress(transport);
	count += free_orphans(transport, false);
	count += shm_progress(transport, now_ns);
	kvx_list_for_each (entry, following, &transport->lanes)
		count += (int)kvx_shm_close_forgotten(
			(struct shm_link *)kvx_container_of(entry, struct kvx_lane, entry));
	return count;
}

/* Copies that are under way have entries in a ring, which keeps it from being armed. */
static bool cuda_ipc_arm(struct kvx_transport *transport)
{
	return kvx_lane_arm(&transport->lanes) || !kvx_list_empty(&transport->orphans);
}

static void cuda_ipc_explain(const struct kvx_link *link, char *text, size_t size)
{
	const struct shm_link *shm = (const struct shm_link *)link;

	snprintf(text, size, "copies %s GPU memory of process %d by IPC, ring of %u entries",
		 shm->connector ? "to" : "from", shm->peer_pid, KVX_LANE_FORWARD_ENTRIES);
}

static void cuda_ipc_port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	(void)rail;
	snprintf(text, size, "gpu");
}

static void shm_explain(const struct kvx_link *link, char *text, size_t size)
{
	const struct shm_link *shm = (const struct shm_link *)link;
	uint32_t mapped = 0, read = 0;

	for (uint32_t i = 0; i < shm->memories.count; i++) {
		mapped += shm->memories.entries[i].mapped;
		read += !shm->memories.entries[i].mapped;
	}
	const char *how = mapped && read ? "mapped pools and process_vm_readv"
			  : mapped       ? "mapped pools"
			  : read         ? "process_vm_readv"
			  : shm->peer_readable
				  ? "mapped pools, or process_vm_readv"
				  : "mapped pools only (process_vm_readv is not permitted)";
	snprintf(text, size, "%s, process %d of this host, ring of %u entries", how, shm->peer_pid,
		 KVX_LANE_FORWARD_ENTRIES);
}

static void shm_port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	(void)rail;
	snprintf(text, size, "memory");
}

const struct kvx_transport_ops kvx_shm_transport = {
	.name = "shm",
	.open = shm_open_transport,
	.close = shm_close,
	.address = shm_address,
	.resolve = shm_resolve,
	.connect = shm_connect,
	.disconnect = shm_disconnect,
	.message = kvx_lane_message,
	.post = shm_post,
	.withdraw = shm_withdraw,
	.forget = shm_forget,
	.progress = shm_progress,
	.arm = shm_arm,
	.explain = shm_explain,
	.port = shm_port,
};

const struct kvx_transport_ops kvx_cuda_ipc_transport = {
	.name = "cuda_ipc",
	.devices_only = true,
	.asynchronous = true,
	.open = cuda_ipc_open,
	.close = cuda_ipc_close,
	.address = shm_address,
	.resolve = cuda_ipc_resolve,
	.connect = shm_connect,
	.disconnect = cuda_ipc_disconnect,
	.message = kvx_lane_message,
	.post = shm_post,
	.withdraw = shm_withdraw,
	.forget = shm_forget,
	.progress = cuda_ipc_progress,
	.arm = cuda_ipc_arm,
	.explain = cuda_ipc_explain,
	.port = cuda_ipc_port,
	.forgotten = kvx_shm_gpu_forgotten,
	.attach = kvx_shm_gpu_attach,
	.detach = kvx_shm_gpu_detach,
};
