/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine as it was found: a tree of boxes (packages, NUMA nodes, host bridges, switches), places
 * and ports that stand in them, and the matrix of both. Knows no hwloc, no file and no system.
 * Owner: whoever builds it, and then the topology, which no longer changes it but for port states.
 */
#ifndef KVX_TOPOLOGY_MACHINE_H
#define KVX_TOPOLOGY_MACHINE_H

#include <kvxfer/topology.h>
#include <stdbool.h>

#define KVX_NOTES_MAX 4u
#define KVX_PCI_NONE UINT64_MAX
#define KVX_LANES_MAX 255u /* of a PCIe link; PCIe 6 ends at 32 */
#define KVX_GBPS_MAX 1e6   /* of any link */

/* A box of the tree; what programs see of it, and more. */
struct kvx_box {
	struct kvx_topology_box shown;
	uint32_t bridge_ports; /* ports of bridges that it stands for: 2 for a whole switch */
	uint32_t width;        /* of the link towards the CPU, in lanes; 0: not known */
	double link_gbps;      /* of that link; 0: not known */
};

struct kvx_place {
	struct kvx_topology_place shown;
	uint64_t pci;
	double link_gbps; /* of its own PCIe link; idle GPUs clock it down, so paths leave it out */
	bool is_listed;   /* the override lists its ports */
};

struct kvx_port {
	struct kvx_topology_port shown;
	uint64_t pci;
	uint32_t width;   /* of its own link; 0: not known */
	double link_gbps; /* of its own link; 0: not known */
	uint32_t vendor;  /* PCI vendor; 0: not known */
	bool is_function; /* a virtual function (SR-IOV) */
};

struct kvx_pair {
	struct kvx_topology_pair shown;
	bool is_listed; /* the override lists this port for this place */
};

struct kvx_machine {
	struct kvx_box *boxes;
	struct kvx_place *places;
	struct kvx_port *ports;
	struct kvx_pair *pairs; /* [place * port_count + port] */
	uint32_t box_count, place_count, port_count;
	bool has_pairs; /* the source gave classes itself: the tree is for pictures alone */
	uint32_t note_count;
	char notes[KVX_NOTES_MAX][KVX_TOPOLOGY_TEXT_MAX + 1];
};

/* Adds a zeroed one (a box: under parent, which exists or is KVX_TOPOLOGY_NONE) and returns it;
 * valid until the next is added. NULL, with the error told, if there are too many. */
struct kvx_box *kvx_machine_add_box(struct kvx_machine *machine, enum kvx_box_kind kind,
				    uint32_t parent);
struct kvx_place *kvx_machine_add_place(struct kvx_machine *machine, enum kvx_place_kind kind,
					uint32_t box);
struct kvx_port *kvx_machine_add_port(struct kvx_machine *machine, uint32_t box);

void kvx_machine_finish(struct kvx_machine *machine);

/* Virtual functions of cards whose physical function is here too are marked as shadows: both send
 * through one port, which must not count twice. In a guest that sees no physical function they are
 * ports like others. */
void kvx_machine_mark_shadows(struct kvx_machine *machine);

/* Once all is added: orders places and ports by PCI address, names the GPUs, takes speeds and
 * widths that no link has for not known, and makes room for the matrix. KVX_E_MEMORY. */
int kvx_machine_settle(struct kvx_machine *machine);

/* Remarks for whoever looks at the machine; more than KVX_NOTES_MAX are dropped. */
void kvx_machine_note(struct kvx_machine *machine, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static inline struct kvx_pair *kvx_machine_pair(const struct kvx_machine *machine, uint32_t place,
						uint32_t port)
{
	return &machine->pairs[(size_t)place * machine->port_count + port];
}

/* "domain:bus:device.function", "0000:" may be left out. False: not an address. */
bool kvx_pci_parse(const char *text, uint64_t *pci);

/* To at least KVX_TOPOLOGY_PCI_MAX + 1 characters; "" for KVX_PCI_NONE. */
void kvx_pci_print(uint64_t pci, char *text);

static inline uint64_t kvx_pci_make(uint32_t domain, uint32_t bus, uint32_t device,
				    uint32_t function)
{
	return (uint64_t)domain << 16 | (bus & 0xff) << 8 | (device & 0x1f) << 3 | (function & 7);
}

/* The device without its function: functions of one card share its link. */
static inline uint64_t kvx_pci_card(uint64_t pci)
{
	return pci == KVX_PCI_NONE ? pci : pci & ~UINT64_C(7);
}

/* Does the word mean the place: its PCI address, "GPU0", "NUMA0" of any case? Of a settled machine.
 */
bool kvx_place_is(const struct kvx_place *place, const char *word);

/* Does it mean the port: its PCI address, its device, or "device:port"? */
bool kvx_port_is(const struct kvx_port *port, const char *word);

/* Copies what fits a name; what is not printable ASCII becomes '?', since names end up on terminals
 * and in JSON. */
void kvx_name_set(char name[KVX_TOPOLOGY_NAME_MAX + 1], const char *text);

#endif
