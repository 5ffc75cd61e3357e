/* SPDX-License-Identifier: Apache-2.0 */
/* What can be tried with the RDMA devices of this machine, one after another, without an engine.
 * For src/doctor, which judges it; no type of libibverbs is seen here. */
#ifndef KVX_VERBS_DOCTOR_H
#define KVX_VERBS_DOCTOR_H

#include "base/options.h"

#define KVX_VERBS_TRIED_MAX (UINT64_C(64) << 20) /* bytes that are registered at most */

/* A port. */
struct kvx_verbs_port_exam {
	uint32_t number;     /* from 1 */
	bool is_ethernet;    /* RoCE; else InfiniBand */
	bool is_up;          /* active */
	bool is_link_up;     /* physically; nobody has made it active */
	const char *state;   /* "down"; static */
	uint32_t speed_mbps; /* 0: not known */
	uint32_t mtu;        /* active, bytes */
	uint32_t mtu_max;    /* that the port can do, bytes */
	uint32_t gid_count;  /* rows that are filled */
	int gid_error;       /* 0, or why none can be used: enum kvx_error */
	bool is_gid_local;   /* link-local: it does not pass a router */
	bool is_gid_v1;      /* RoCE v1: it does not pass a router either */
	char interface[32];  /* RoCE: the network interface, or "" */
	char gid[256];       /* which GID an engine would use, and why; or why none */
};

/* A device. The texts are valid during the call. */
struct kvx_verbs_exam {
	const char *name;
	const char *left_out; /* why verbs does not use it at all, or NULL */
	int open_error;       /* errno; nothing below counts then */
	bool has_windows;     /* memory windows of type 2B */
	uint64_t registered;  /* largest piece of memory that could be registered, bytes */
	int register_error;   /* errno of the next larger one, 0: nothing failed */
	int relaxed_error;    /* errno of a registration with relaxed ordering */
	int dmabuf_error;     /* errno of a registration of a descriptor that is none */
	uint32_t port_count;
	const struct kvx_verbs_port_exam *ports;
};

/* Tries all devices that option verbs_devices selects. Returns how many libibverbs lists, selected
 * or not, or an error: KVX_E_INVALID (an option names what there is not), KVX_E_UNSUPPORTED
 * (devices cannot be listed), KVX_E_MEMORY. */
int kvx_verbs_examine(const struct kvx_options *options,
		      void (*take)(void *context, const struct kvx_verbs_exam *exam),
		      void *context);

/* A piece of a device's memory. */
struct kvx_verbs_piece {
	void *address;
	uint64_t bytes;
	int dmabuf; /* that holds it from dmabuf_offset on, or -1: not tried by it */
	uint64_t dmabuf_offset;
};

#define KVX_VERBS_WHY_MAX 255u

/* Whether an RDMA device takes the piece as an engine would register it. The texts say why not, and
 * are empty where it does. */
struct kvx_verbs_reach {
	const char *name; /* of the RDMA device */
	bool by_dmabuf;
	bool by_address;    /* as kernels with peer memory modules can */
	bool is_windowless; /* the kernel binds no memory windows to this dma-buf */
	char dmabuf[KVX_VERBS_WHY_MAX + 1];
	char address[KVX_VERBS_WHY_MAX + 1];
};

/* As kvx_verbs_examine(), for the piece alone; of devices that cannot be opened nothing is told. */
int kvx_verbs_examine_piece(const struct kvx_options *options, const struct kvx_verbs_piece *piece,
			    void (*take)(void *context, const struct kvx_verbs_reach *reach),
			    void *context);

#endif
