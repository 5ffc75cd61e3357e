/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The options of an engine: one table. X(field, kind, default, low, high or choices, help).
 * It makes the struct, the parser, the environment's names, kvx_option_describe() and
 * docs/options.md.
 */
#ifndef KVX_BASE_OPTIONS_H
#define KVX_BASE_OPTIONS_H

#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVX_OPTION_TEXT_MAX 255u

/* TEXT(name, default, help)  CHOICE(name, default, choices, help)  FLAG(name, default, help)
 * NUMBER(name, default, low, high, help)  BYTES(name, default, low, high, help) */
#define KVX_OPTION_TABLE(TEXT, CHOICE, NUMBER, BYTES, FLAG)                                      \
	TEXT(name, "", "name of the engine in logs and errors; empty: host name and process id") \
	CHOICE(progress, "thread", "thread|caller",                                              \
	       "who drives the engine: its own thread, or calls of kvx_engine_progress()")       \
	TEXT(progress_numa, "auto",                                                              \
	     "where its own thread runs: a NUMA node's number; auto: near the NICs used; off")   \
	TEXT(transports, "auto",                                                                 \
	     "transports to use, best first, as \"shm,tcp\"; auto: all that work")               \
	TEXT(listen, "127.0.0.1:0",                                                              \
	     "HOST:PORT that tcp listens on, IPv6 in brackets; port 0: a free one")              \
	TEXT(advertise, "", "host that tickets name for tcp; needed where listen is a wildcard") \
	FLAG(unauthenticated_network, false,                                                     \
	     "lets tcp listen beyond loopback although peers are not authenticated")             \
	NUMBER(connect_timeout_ms, 2000, 10, 600000, "longest time for a connection to be made") \
	NUMBER(heartbeat_ms, 1000, 10, 60000,                                                    \
	       "time between heartbeats; a peer silent for two is lost")                         \
	NUMBER(spin_us, 50, 0, 1000000,                                                          \
	       "how long the engine's thread and waiters look for more before they sleep")       \
	NUMBER(watch_us, 20, 1, 100000,                                                          \
	       "time between looks at ready words while nothing else runs")                      \
	BYTES(unit_bytes, 1048576, 4096, 1073741824,                                             \
	      "size a layer's units aim at; a layer has at most 64")                             \
	NUMBER(tcp_connections, 2, 1, 16, "data connections to each peer")                       \
	FLAG(tcp_encryption, false,                                                              \
	     "data connections are encrypted too; needs secret_file, at both ends")              \
	BYTES(tcp_buffer, 0, 0, 1073741824, "socket buffers of tcp; 0: the system's choice")     \
	TEXT(shm_users, "",                                                                      \
	     "ids of other users whose processes shm connects with, as \"1001,1002\"; each end " \
	     "must allow the other")                                                             \
	NUMBER(drain_ms, 100, 0, 60000,                                                          \
	       "how long a sender may take to stop before the receiver cuts it off")             \
	TEXT(topology, "auto",                                                                   \
	     "how near NICs are to memory: auto, off, or an override (docs/topology.md)")        \
	TEXT(verbs_devices, "",                                                                  \
	     "devices or ports that verbs uses, as \"mlx5_0,mlx5_1:1\"; empty: all")             \
	TEXT(verbs_listen, "",                                                                   \
	     "HOST:PORT of verbs' control connections; empty: the host of listen, a free port")  \
	TEXT(verbs_gid_index, "auto", "index into each port's GID table; auto: by rule")         \
	NUMBER(verbs_qps, 2, 1, 16, "queue pairs for each pair of ports")                        \
	CHOICE(verbs_mtu, "auto", "auto|256|512|1024|2048|4096",                                 \
	       "largest packet of verbs in bytes; auto: the port's")                             \
	NUMBER(verbs_traffic_class, 0, 0, 255, "traffic class of RoCE packets")                  \
	NUMBER(verbs_service_level, 0, 0, 15, "service level of verbs")                          \
	NUMBER(verbs_pkey_index, 0, 0, 65535, "index into each port's partition key table")      \
	NUMBER(verbs_timeout, 14, 1, 31,                                                         \
	       "wait for an acknowledgement: 4.096 us * 2^this, before a packet is sent again")  \
	NUMBER(verbs_retries, 6, 0, 6, "times a packet is sent again before its rail is down")   \
	NUMBER(verbs_rnr_retries, 6, 0, 6,                                                       \
	       "times a receiver may lack receives before the rail is down")                     \
	NUMBER(verbs_rnr_timer, 20, 1, 31,                                                       \
	       "code of the wait before each such time (InfiniBand 9.7.5.2.8); 20: 10.24 ms")    \
	NUMBER(verbs_receives, 4096, 4, 65536, "receives of each device, shared by all peers")   \
	FLAG(verbs_windows, true, "grants through memory windows, where the device has them")    \
	FLAG(verbs_relaxed_ordering, true, "relaxed ordering of PCIe writes, where available")   \
	CHOICE(staging, "auto", "auto|on|off",                                                   \
	       "gather tiny pieces to send, scatter them on arrival; auto: where it is faster")  \
	BYTES(staging_bytes, 67108864, 262144, 1073741824,                                       \
	      "memory to gather in, made when it is first needed")                               \
	TEXT(control, "",                                                                        \
	     "control socket: a path, or a folder ending with / for NAME.sock; empty: off")      \
	TEXT(control_listen, "", "HOST:PORT of the control socket over TCP too; empty: off")     \
	NUMBER(control_retain_ms, 60000, 0, 86400000,                                            \
	       "how long what the control socket opened is kept after its end")                  \
	TEXT(secret_file, "", "file with the cluster's secret (docs/security.md); empty: none")  \
	FLAG(loop_copy, true, "loop moves the bytes; off: only counts, to measure the engine")

/* Changed while the engine is open, by kvx_option_change(); read by kvx_option() alone. */
#define KVX_LIVE_OPTION_TABLE(X) \
	X(connect_timeout_ms)    \
	X(spin_us)               \
	X(watch_us)              \
	X(unit_bytes)            \
	X(drain_ms)              \
	X(control_retain_ms)

struct kvx_options {
#define KVX_TEXT_FIELD(field, initial, help) char field[KVX_OPTION_TEXT_MAX + 1];
#define KVX_CHOICE_FIELD(field, initial, choices, help) char field[KVX_OPTION_TEXT_MAX + 1];
#define KVX_NUMBER_FIELD(field, initial, low, high, help) uint64_t field;
#define KVX_FLAG_FIELD(field, initial, help) bool field;
	KVX_OPTION_TABLE(KVX_TEXT_FIELD, KVX_CHOICE_FIELD, KVX_NUMBER_FIELD, KVX_NUMBER_FIELD,
			 KVX_FLAG_FIELD)
	struct kvx_log log;
	char shown[KVX_OPTION_TEXT_MAX + 1]; /* what kvx_options_get() returned last */
};

/* The value of a live option. Any thread: each value stands for itself, so no order is needed. */
#define kvx_option(options, field) __atomic_load_n(&(options)->field, __ATOMIC_RELAXED)

/* Any thread, while others read it. KVX_E_INVALID. */
int kvx_option_change(struct kvx_options *options, const char *name, const char *value);

/* Any thread: the value as text, as kvx_options_get() gives it. KVX_E_INVALID: no such option. */
int kvx_option_text(const struct kvx_options *options, const char *name, char *text, size_t size);

#endif
