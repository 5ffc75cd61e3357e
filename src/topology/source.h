/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where machines come from: this one (hwloc and sysfs), or a file. Each reader adds to an empty
 * machine, which the caller finishes also if the reader fails.
 */
#ifndef KVX_TOPOLOGY_SOURCE_H
#define KVX_TOPOLOGY_SOURCE_H

#include "topology/machine.h"

struct hwloc_topology; /* of <hwloc.h> */

/* This machine; *hwloc stays open for binding, kvx_hwloc_close() ends it. */
int kvx_source_here(struct kvx_machine *machine, struct hwloc_topology **hwloc);

/* A file of any kind that is known, told by its content. */
int kvx_source_file(struct kvx_machine *machine, const char *path);

/* ---------------------------------------------------------------- one file each, behind the above
 */

#define KVX_XML_DEPTH_MAX 128u /* elements inside each other */

/* A file's content. The zero after it is not counted. */
struct kvx_content {
	const char *path; /* for errors */
	char *bytes;
	size_t size;
};

/* What XML is about. */
struct kvx_xml_root {
	char name[KVX_TOPOLOGY_NAME_MAX + 1];
	char version[KVX_TOPOLOGY_NAME_MAX + 1]; /* its attribute, or "" */
	bool has_memory;                         /* there is a NUMA node of hwloc's */
};

/* Checks that the content is well-formed XML without declarations of its own, not too deep, and
 * takes comments out, which some builds of hwloc refuse. KVX_E_INVALID. */
int kvx_xml_check(struct kvx_content *content, struct kvx_xml_root *root);

int kvx_hwloc_read(struct kvx_machine *machine, const struct kvx_content *content);
int kvx_hwloc_discover(struct kvx_machine *machine, struct hwloc_topology **hwloc);
void kvx_hwloc_close(struct hwloc_topology *hwloc);

int kvx_nccl_read(struct kvx_machine *machine, const struct kvx_content *content);

int kvx_table_read(struct kvx_machine *machine, const struct kvx_content *content);
size_t kvx_table_write(const struct kvx_machine *machine, char *text, size_t size);

/* What hwloc does not tell, from a sysfs mounted at `root`: state, speed and link of ports, devices
 * that sit on a network interface, lanes, virtual and management functions. */
int kvx_sysfs_complete(struct kvx_machine *machine, const char *root);

/* The IP subnets of the ports' interfaces, as fabrics. */
void kvx_subnets_find(struct kvx_machine *machine);

#endif
