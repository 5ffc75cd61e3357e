/* SPDX-License-Identifier: Apache-2.0 */
/* Names for people, and calls that have nothing to do here. */
#include "internal.h"

static const char *of(const char *const *names, size_t count, int value)
{
	return value >= 0 && (size_t)value < count && names[value] ? names[value] : "unknown";
}

#define OF(names, value) of(names, sizeof(names) / sizeof((names)[0]), (int)(value))

EXPORT const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	static const char *const names[] = {
		[IBV_WC_SUCCESS] = "success",
		[IBV_WC_LOC_LEN_ERR] = "local length error",
		[IBV_WC_LOC_QP_OP_ERR] = "local queue pair operation error",
		[IBV_WC_LOC_PROT_ERR] = "local protection error",
		[IBV_WC_WR_FLUSH_ERR] = "request flushed",
		[IBV_WC_MW_BIND_ERR] = "memory window bind error",
		[IBV_WC_REM_INV_REQ_ERR] = "remote invalid request error",
		[IBV_WC_REM_ACCESS_ERR] = "remote access error",
		[IBV_WC_REM_OP_ERR] = "remote operation error",
		[IBV_WC_RETRY_EXC_ERR] = "retries exhausted",
		[IBV_WC_RNR_RETRY_EXC_ERR] = "receiver-not-ready retries exhausted",
	};

	return OF(names, status);
}

EXPORT const char *ibv_node_type_str(enum ibv_node_type type)
{
	return type == IBV_NODE_CA ? "channel adapter" : "unknown";
}

EXPORT const char *ibv_port_state_str(enum ibv_port_state state)
{
	static const char *const names[] = {
		[IBV_PORT_DOWN] = "down",
		[IBV_PORT_INIT] = "init",
		[IBV_PORT_ARMED] = "armed",
		[IBV_PORT_ACTIVE] = "active",
	};

	return OF(names, state);
}

EXPORT const char *ibv_event_type_str(enum ibv_event_type type)
{
	static const char *const names[] = {
		[IBV_EVENT_CQ_ERR] = "completion queue error",
		[IBV_EVENT_QP_FATAL] = "queue pair fatal error",
		[IBV_EVENT_QP_REQ_ERR] = "queue pair request error",
		[IBV_EVENT_QP_ACCESS_ERR] = "queue pair access error",
		[IBV_EVENT_COMM_EST] = "communication established",
		[IBV_EVENT_DEVICE_FATAL] = "device fatal error",
		[IBV_EVENT_PORT_ACTIVE] = "port active",
		[IBV_EVENT_PORT_ERR] = "port error",
		[IBV_EVENT_SRQ_LIMIT_REACHED] = "shared receive queue limit reached",
		[IBV_EVENT_QP_LAST_WQE_REACHED] = "last request of queue pair reached",
	};

	return OF(names, type);
}

/* Nothing of the fake breaks when the program forks before it opens a device. */
EXPORT int ibv_fork_init(void)
{
	return 0;
}

EXPORT enum ibv_fork_status ibv_is_fork_initialized(void)
{
	return IBV_FORK_UNNEEDED;
}

/* There is no sysfs behind the devices. */
int ibv_read_sysfs_file(const char *folder, const char *file, char *bytes, size_t size);

EXPORT int ibv_read_sysfs_file(__attribute__((unused)) const char *folder,
			       __attribute__((unused)) const char *file,
			       __attribute__((unused)) char *bytes,
			       __attribute__((unused)) size_t size)
{
	errno = ENOENT;
	return -1;
}
