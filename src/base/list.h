/* SPDX-License-Identifier: Apache-2.0 */
/* Doubly linked list of members: no allocation, constant-time removal. */
#ifndef KVX_BASE_LIST_H
#define KVX_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct kvx_list {
	struct kvx_list *previous, *next;
};

#define kvx_container_of(pointer, type, member) \
	((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* The body may remove the current entry, and no other. */
#define kvx_list_for_each(entry, following, head)                                    \
	for ((entry) = (head)->next, (following) = (entry)->next; (entry) != (head); \
	     (entry) = (following), (following) = (entry)->next)

/* A head, or an entry that is in no list. */
static inline void kvx_list_init(struct kvx_list *list)
{
	list->previous = list->next = list;
}

static inline bool kvx_list_empty(const struct kvx_list *list)
{
	return list->next == list;
}

static inline void kvx_list_append(struct kvx_list *head, struct kvx_list *entry)
{
	entry->previous = head->previous;
	entry->next = head;
	head->previous->next = entry;
	head->previous = entry;
}

/* Does nothing to an entry that is in no list. */
static inline void kvx_list_remove(struct kvx_list *entry)
{
	entry->previous->next = entry->next;
	entry->next->previous = entry->previous;
	kvx_list_init(entry);
}

#endif
