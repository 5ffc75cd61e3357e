/* SPDX-License-Identifier: Apache-2.0 */
#include "shm.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The id that the kernel draws when it boots: tells hosts apart. */
static int read_boot_id(char *boot_id, size_t size)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, boot_id, size - 1);

	if (fd >= 0)
		close(fd);
	if (length <= 0 && (errno == EMFILE || errno == ENFILE))
		return kvx_fail(KVX_E_SYSTEM, "shm: boot id: %s; raise RLIMIT_NOFILE",
				strerror(errno));
	if (length <= 0)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"shm: /proc/sys/kernel/random/boot_id cannot be read; is /proc "
				"mounted?");
	boot_id[length] = 0;
	boot_id[strcspn(boot_id, "\n")] = 0;
	return 0;
}

static int shm_open_transport(const struct kvx_transport_context *context,
			      struct kvx_transport **out)
{
	struct kvx_transport *transport = calloc(1, sizeof(*transport));

	if (!transport)
		return kvx_fail(KVX_E_MEMORY, "shm: out of memory");
	transport->context = *context;
	kvx_list_init(&transport->lanes);
	kvx_list_init(&transport->half_made);

	int error = read_boot_id(transport->boot_id, sizeof(transport->boot_id));
	if (!error)
		error = kvx_shm_listen(transport);
	if (error) {
		free(transport);
		return error;
	}
	*out = transport;
	return 0;
}

static void shm_close(struct kvx_transport *transport)
{
	kvx_shm_unlisten(transport);
	free(transport);
}

static const char *shm_address(const struct kvx_transport *transport)
{
	return transport->address;
}

/* Splits "name@boot id"; the parts have no other form that could do harm. */
static int parse_address(const char *address, char *name, char *boot_id)
{
	const char *at = strchr(address, '@');
	size_t name_length = at ? (size_t)(at - address) : 0;

	if (!at || strncmp(address, "kvxfer-", 7) != 0 || name_length > SHM_NAME_MAX ||
	    strlen(at + 1) == 0 || strlen(at + 1) > SHM_BOOT_ID_MAX)
		return kvx_fail(KVX_E_INVALID,
				"shm: address \"%s\" is not of the form kvxfer-NUMBER-USER@BOOT_ID",
				address);
	memcpy(name, address, name_length);
	name[name_length] = 0;
	memcpy(boot_id, at + 1, strlen(at + 1) + 1);
	return 0;
}

static int shm_resolve(const char *address, char *resolved, size_t size)
{
	char name[SHM_NAME_MAX + 1], boot_id[SHM_BOOT_ID_MAX + 1];
	int error = parse_address(address, name, boot_id);

	if (error)
		return error;
	if ((size_t)snprintf(resolved, size, "%s", address) >= size)
		return kvx_fail(KVX_E_INVALID, "shm: no room for the address");
	return 0;
}

static int shm_connect(struct kvx_transport *transport, const char *address, struct kvx_link **out)
{
	char name[SHM_NAME_MAX + 1], boot_id[SHM_BOOT_ID_MAX + 1];
	int error = parse_address(address, name, boot_id);

	if (error)
		return error;
	if (strcmp(boot_id, transport->boot_id) != 0)
		return kvx_fail(KVX_E_UNREACHABLE,
				"shm: other host: boot id %s is not this host's %s", boot_id,
				transport->boot_id);

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
