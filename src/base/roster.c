/* SPDX-License-Identifier: Apache-2.0 */
#include "base/roster.h"

void kvx_roster_init(struct kvx_roster *roster)
{
	*roster = (struct kvx_roster){0};
	kvx_list_init(&roster->list);
}

/* Ids come in sequence; this has no two that are equal, and scatters them (MurmurHash3's last
 * step). */
static uint64_t scatter(uint64_t id)
{
	id = (id ^ id >> 33) * UINT64_C(0xff51afd7ed558ccd);
	id = (id ^ id >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
	return id ^ id >> 33;
}

/* Whether the one belongs above the other. */
static bool outranks(const struct kvx_roster *one, const struct kvx_roster *other)
{
	return scatter(one->id) > scatter(other->id);
}

/* Where the entry hangs. */
static struct kvx_roster **seat_of(const struct kvx_roster *entry)
{
	return entry->above->low == entry ? &entry->above->low : &entry->above->high;
}

/* Takes the place of the entry above it, which comes under it; their order stays. */
static void rise(struct kvx_roster *entry)
{
	struct kvx_roster *under = entry->above, **seat = seat_of(under), *between;

	if (under->low == entry) {
		between = under->low = entry->high;
		entry->high = under;
	} else {
		between = under->high = entry->low;
		entry->low = under;
	}
	if (between)
		between->above = under;
	entry->above = under->above;
	under->above = entry;
	*seat = entry;
}

/* Of two neighbours in the list, the first has nothing in high or the second nothing in low: that
 * is where a leaf between them belongs. */
void kvx_roster_insert(struct kvx_roster *head, struct kvx_roster *entry, uint64_t id)
{
	struct kvx_roster *previous =
		kvx_container_of(head->list.previous, struct kvx_roster, list);
	struct kvx_roster *next = previous->id > id ? kvx_roster_after(head, id) : head;

	previous = kvx_container_of(next->list.previous, struct kvx_roster, list);
	entry->id = id;
	entry->low = entry->high = NULL;
	kvx_list_append(&next->list, &entry->list);
	if (previous != head && !previous->high) {
		previous->high = entry;
		entry->above = previous;
	} else {
		next->low = entry;
		entry->above = next;
	}
	while (entry->above != head && outranks(entry, entry->above))
		rise(entry);
}

void kvx_roster_remove(struct kvx_roster *entry)
{
	if (!entry->above)
		return;
	while (entry->low || entry->high)
		rise(!entry->low || (entry->high && outranks(entry->high, entry->low))
			     ? entry->high
			     : entry->low);
	*seat_of(entry) = NULL;
	entry->above = NULL;
	kvx_list_remove(&entry->list);
}

struct kvx_roster *kvx_roster_find(const struct kvx_roster *head, uint64_t id)
{
	struct kvx_roster *entry = head->low;

	while (entry && entry->id != id)
		entry = entry->id > id ? entry->low : entry->high;
	return entry;
}

struct kvx_roster *kvx_roster_after(const struct kvx_roster *head, uint64_t id)
{
	struct kvx_roster *entry = head->low, *found = NULL;

	while (entry) {
		if (entry->id > id)
			found = entry;
		entry = entry->id > id ? entry->low : entry->high;
	}
	return found;
}
