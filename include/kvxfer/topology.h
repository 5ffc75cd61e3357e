/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine looks like to a transfer: its memory places (GPUs, NUMA nodes), its NIC ports,
 * how near each is to each, which ports the engine uses for which place, and why.
 *
 *   struct kvx_topology *topology;
 *   kvx_topology_open(NULL, NULL, &topology);            this machine
 *   kvx_topology_pair(topology, place, port, &pair);     one cell of the matrix, with the choice
 *   kvx_topology_explain(topology, place, port, ...);    the same in words
 *   kvx_topology_close(topology);
 *
 * Nothing here changes after kvx_topology_open(); any thread may read. Errors as in kvxfer.h.
 */
#ifndef KVXFER_TOPOLOGY_H
#define KVXFER_TOPOLOGY_H

#include <kvxfer/kvxfer.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define KVX_TOPOLOGY_PLACES_MAX 512u
#define KVX_TOPOLOGY_PORTS_MAX 256u
#define KVX_TOPOLOGY_BOXES_MAX 8192u
#define KVX_TOPOLOGY_FILE_MAX (32u << 20) /* size of a file that describes a machine, bytes */
#define KVX_TOPOLOGY_NAME_MAX 63u         /* characters of a name */
#define KVX_TOPOLOGY_PCI_MAX 19u          /* characters of a PCI address: "0000:18:00.0" */
#define KVX_TOPOLOGY_TEXT_MAX 255u        /* characters of an explanation */

/* In place of a box's or a NUMA node's number: there is none, or it is not known. */
#define KVX_TOPOLOGY_NONE UINT32_MAX

/* A machine as it was found; the places and ports are ordered by PCI address. */
struct kvx_topology;

/*
 * Opens a machine. machine: NULL or "" for this one, or the path of a file that describes one: XML
 * of hwloc (as lstopo writes it), XML of NCCL (as clouds ship it) or a matrix (docs/topology.md).
 * override: NULL, "" or "auto" for none; the path of such a file, which then says how near things
 * are, while the ports' names and states stay the machine's; or a list of the devices to use,
 * "0000:19:00.0=mlx5_0,mlx5_1;*=mlx5_2" (docs/topology.md).
 * Errors: KVX_E_INVALID (a file or list that is not valid, or names what does not exist),
 * KVX_E_VERSION (written by a newer hwloc), KVX_E_LIMIT, KVX_E_MEMORY, KVX_E_SYSTEM.
 */
int kvx_topology_open(const char *machine, const char *override, struct kvx_topology **topology);

/* NULL does nothing. */
void kvx_topology_close(struct kvx_topology *topology);

/* ------------------------------------------------------------------------------ what there is */

/* Where the nearest common ancestor of a place and a port lies. Nearer is less. */
enum kvx_nearness {
	KVX_NEARNESS_PIX,  /* the same device or PCIe switch */
	KVX_NEARNESS_PXB,  /* several PCIe switches */
	KVX_NEARNESS_PHB,  /* the same host bridge */
	KVX_NEARNESS_NODE, /* the same NUMA node */
	KVX_NEARNESS_SYS,  /* elsewhere in the machine */
};

/* "PIX", "PXB", "PHB", "NODE", "SYS". Static. */
const char *kvx_nearness_name(enum kvx_nearness nearness);

enum kvx_place_kind { KVX_PLACE_GPU, KVX_PLACE_NUMA };

struct kvx_topology_place {
	enum kvx_place_kind kind;
	uint32_t numa;                         /* a node's own number; of a GPU the nearest's */
	uint32_t box;                          /* that it stands in */
	char name[KVX_TOPOLOGY_NAME_MAX + 1];  /* "GPU0", "NUMA0" */
	char model[KVX_TOPOLOGY_NAME_MAX + 1]; /* or "" */
	char pci[KVX_TOPOLOGY_PCI_MAX + 1];    /* "" for a NUMA node */
};

enum kvx_port_state { KVX_PORT_UNKNOWN, KVX_PORT_UP, KVX_PORT_DOWN };

enum kvx_port_link { KVX_LINK_UNKNOWN, KVX_LINK_INFINIBAND, KVX_LINK_ETHERNET, KVX_LINK_OTHER };

/* What a port is good for. */
enum kvx_port_fitness {
	KVX_PORT_FIT,
	KVX_PORT_NOT_RDMA,   /* a network interface only */
	KVX_PORT_MANAGEMENT, /* a function for management, not for data */
	KVX_PORT_SHADOW,     /* a virtual function of a card whose physical one is here too */
};

struct kvx_topology_port {
	enum kvx_port_fitness fitness;
	enum kvx_port_state state;
	enum kvx_port_link link;
	uint32_t number;                           /* of the port in its device, from 1 */
	uint32_t numa;                             /* node that it is near, or KVX_TOPOLOGY_NONE */
	uint32_t box;                              /* that it stands in */
	uint32_t pcie_width;                       /* lanes of the narrowest link; 0: not known */
	double speed_gbps;                         /* of the network link; 0: not known */
	double pcie_gbps;                          /* narrowest link to the CPU; 0: not known */
	char name[KVX_TOPOLOGY_NAME_MAX + 1];      /* RDMA device, "mlx5_0"; or "" */
	char interface[KVX_TOPOLOGY_NAME_MAX + 1]; /* network interface, or "" */
	char fabric[KVX_TOPOLOGY_NAME_MAX + 1];    /* ports of one fabric reach each other; or "" */
	char pci[KVX_TOPOLOGY_PCI_MAX + 1];        /* "" for a virtual one that sits on none */
};

enum kvx_box_kind {
	KVX_BOX_MACHINE,
	KVX_BOX_PACKAGE,
	KVX_BOX_NUMA,
	KVX_BOX_HOST_BRIDGE,
	KVX_BOX_BRIDGE, /* a port of a PCIe switch, or a root port */
	KVX_BOX_SWITCH, /* a whole PCIe switch */
};

/* What holds places and ports: a tree, parents before children. */
struct kvx_topology_box {
	enum kvx_box_kind kind;
	uint32_t parent; /* KVX_TOPOLOGY_NONE for the machine */
	uint32_t numa;   /* of a NUMA box its node, otherwise KVX_TOPOLOGY_NONE */
	char name[KVX_TOPOLOGY_NAME_MAX + 1];
	char pci[KVX_TOPOLOGY_PCI_MAX + 1];
};

uint32_t kvx_topology_place_count(const struct kvx_topology *topology);
uint32_t kvx_topology_port_count(const struct kvx_topology *topology);
uint32_t kvx_topology_box_count(const struct kvx_topology *topology);

/* The one of that index, counted from 0. KVX_E_INVALID past the last. */
int kvx_topology_place(const struct kvx_topology *topology, uint32_t index,
		       struct kvx_topology_place *place);
int kvx_topology_port(const struct kvx_topology *topology, uint32_t index,
		      struct kvx_topology_port *port);
int kvx_topology_box(const struct kvx_topology *topology, uint32_t index,
		     struct kvx_topology_box *box);

/* A remark on the machine ("the PCIe tree is hidden ..."), NULL past the last. Owned by topology.
 */
const char *kvx_topology_note(const struct kvx_topology *topology, uint32_t index);

/* ------------------------------------------------------------------------------------- choice */

enum kvx_port_use { KVX_USE_NONE, KVX_USE_FAILOVER, KVX_USE_CHOSEN };

/* Why a port is used for a place, or not. */
enum kvx_use_reason {
	KVX_REASON_BEST,     /* chosen: of the best class */
	KVX_REASON_SHARED,   /* failover: as near, but given to other GPUs */
	KVX_REASON_NEXT,     /* failover: of the next class */
	KVX_REASON_FARTHER,  /* nearer ports suffice */
	KVX_REASON_DOWN,     /* the port is down */
	KVX_REASON_SLOW,     /* far slower than the best of its class */
	KVX_REASON_UNFIT,    /* see the port's fitness */
	KVX_REASON_LISTED,   /* chosen: the override lists it */
	KVX_REASON_UNLISTED, /* the override lists others */
};

/* One cell of the matrix. */
struct kvx_topology_pair {
	enum kvx_nearness nearness;
	enum kvx_port_use use;
	enum kvx_use_reason reason;
	double path_gbps; /* narrowest PCIe link between them; 0: not known */
	double weight;    /* share of the place's bytes; of its chosen ports (of its failover ports)
			     these add up to 1; otherwise 0 */
};

/* KVX_E_INVALID if there is no such place or port. */
int kvx_topology_pair(const struct kvx_topology *topology, uint32_t place, uint32_t port,
		      struct kvx_topology_pair *pair);

/* The cell in words, one sentence: "mlx5_0 port 1 (0000:18:00.0): chosen: PIX (same PCIe switch),
 * ...". At most size - 1 characters and a zero go to text. Returns the length of the whole text; 0
 * if there is no such place or port. */
size_t kvx_topology_explain(const struct kvx_topology *topology, uint32_t place, uint32_t port,
			    char *text, size_t size);

/* ---------------------------------------------------------------------------------- two machines
 */

/* A pair of ports between places of two machines. */
struct kvx_topology_rail {
	uint32_t local_port, remote_port;
	enum kvx_port_use use; /* chosen or failover */
	double weight;         /* share of the bytes; of the chosen rails these add up to 1 */
};

/*
 * The rails between a place here and a place there: ports near at both ends that can reach each
 * other (of the same fabric; where fabrics are not known, of the same kind of link, the n-th port
 * with the n-th), chosen ones first. Writes at most `capacity` of them and returns how many there
 * are, which is 0 if no port reaches another. KVX_E_INVALID, KVX_E_MEMORY.
 */
int kvx_topology_rails(const struct kvx_topology *local, uint32_t local_place,
		       const struct kvx_topology *remote, uint32_t remote_place,
		       struct kvx_topology_rail *rails, uint32_t capacity);

/* Why a port here has which rails to a place there, one sentence; "no common fabric" is one. As
 * kvx_topology_explain(). */
size_t kvx_topology_explain_rail(const struct kvx_topology *local, uint32_t local_place,
				 uint32_t local_port, const struct kvx_topology *remote,
				 uint32_t remote_place, char *text, size_t size);

/* The machine as a matrix file that kvx_topology_open() reads. At most size - 1 characters and a
 * zero go to text. Returns the length of the whole text. */
size_t kvx_topology_write(const struct kvx_topology *topology, char *text, size_t size);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
