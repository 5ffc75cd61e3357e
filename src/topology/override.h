/* SPDX-License-Identifier: Apache-2.0 */
/* What a user says in place of what was found. */
#ifndef KVX_TOPOLOGY_OVERRIDE_H
#define KVX_TOPOLOGY_OVERRIDE_H

#include "topology/machine.h"

/* "PLACE=DEVICE,DEVICE;PLACE=DEVICE": places by PCI address, as GPU0 or NUMA0, or * for all not
 * named; devices by name, name:port or PCI address. Marks the pairs. KVX_E_INVALID. */
int kvx_override_list(struct kvx_machine *machine, const char *list);

/* Makes of the machine one that is as near as `file` says, with the machine's own ports. Both are
 * settled and filled. KVX_E_INVALID: the file names what the machine does not have. */
int kvx_override_machine(struct kvx_machine *machine, const struct kvx_machine *file);

#endif
