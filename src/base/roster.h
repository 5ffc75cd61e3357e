/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A list in the order of ids, and a tree over it, so that an id is found in about 2 log2(count)
 * steps. No allocation. An entry with the highest id comes, and any entry goes, in a few steps
 * however many there are: the tree is a treap, its heap order a hash of the ids.
 */
#ifndef KVX_BASE_ROSTER_H
#define KVX_BASE_ROSTER_H

#include "base/list.h"

#include <stdint.h>

/* A head, or an entry. All zero: an entry that is in no roster. */
struct kvx_roster {
	struct kvx_list list; /* kvx_list_for_each() of the head's sees all, lowest id first */
	uint64_t id;          /* above 0; 0: the head */
	struct kvx_roster *above, *low, *high; /* the head's low is the root */
};

/* A head, or an entry that is in no roster. */
void kvx_roster_init(struct kvx_roster *roster);

/* No other entry has that id. */
void kvx_roster_insert(struct kvx_roster *head, struct kvx_roster *entry, uint64_t id);

/* Does nothing to an entry that is in no roster. */
void kvx_roster_remove(struct kvx_roster *entry);

/* NULL: none has that id. */
struct kvx_roster *kvx_roster_find(const struct kvx_roster *head, uint64_t id);

/* The entry with the lowest id above this one; NULL: there is none. */
struct kvx_roster *kvx_roster_after(const struct kvx_roster *head, uint64_t id);

/* The same of an entry's own id, in one step. */
static inline struct kvx_roster *kvx_roster_next(const struct kvx_roster *head,
						 const struct kvx_roster *entry)
{
	return entry->list.next == &head->list
		       ? NULL
		       : kvx_container_of(entry->list.next, struct kvx_roster, list);
}

#endif
