/* SPDX-License-Identifier: Apache-2.0 */
#include "base/roster.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define ENTRIES 4096u
#define DEEPEST 64u /* of so many; a treap of random ranks has about 30 */

static struct kvx_roster head, entries[ENTRIES + 1]; /* by id; 0 is none */

/* Order, heap and links of what hangs there; how deep it is. */
static uint32_t check_tree(const struct kvx_roster *entry, const struct kvx_roster *above,
			   uint64_t low, uint64_t high)
{
	if (!entry)
		return 0;
	cr_assert_eq(entry->above, above);
	cr_assert(entry->id > low && entry->id < high);
	uint32_t under = check_tree(entry->low, entry, low, entry->id);
	uint32_t over = check_tree(entry->high, entry, entry->id, high);
	return 1 + (under > over ? under : over);
}

/* The list is in order, holds what is in, and is what the tree finds. */
static void check(const bool *in)
{
	const struct kvx_roster *next = kvx_roster_after(&head, 0);
	uint32_t depth = check_tree(head.low, &head, 0, UINT64_MAX);

	cr_assert_leq(depth, DEEPEST);
	for (uint64_t id = 1; id <= ENTRIES; id++) {
		cr_assert_eq(kvx_roster_find(&head, id), in[id] ? &entries[id] : NULL);
		if (!in[id])
			continue;
		cr_assert_eq(next, &entries[id]);
		cr_assert_eq(kvx_roster_after(&head, id - 1), &entries[id]);
		next = kvx_roster_next(&head, next);
		cr_assert_eq(kvx_roster_after(&head, id), next);
	}
	cr_assert_null(next);
	cr_assert_null(kvx_roster_find(&head, 0));
	cr_assert_null(kvx_roster_after(&head, ENTRIES));
	cr_assert_null(kvx_roster_after(&head, UINT64_MAX));
}

Test(roster, ids_that_grow_make_no_deep_tree)
{
	static bool in[ENTRIES + 1];

	kvx_roster_init(&head);
	check(in);
	for (uint32_t id = 1; id <= ENTRIES; id++) {
		kvx_roster_insert(&head, &entries[id], id);
		in[id] = true;
	}
	check(in);
	/* What is left of long queues: every 16th, and the newest. */
	for (uint32_t id = 1; id <= ENTRIES; id++) {
		if (id % 16 == 0 || id > ENTRIES - 10)
			continue;
		kvx_roster_remove(&entries[id]);
		in[id] = false;
	}
	check(in);
	for (uint32_t id = 1; id <= ENTRIES; id++)
		kvx_roster_remove(&entries[id]); /* those that are out already, too */
	cr_assert(kvx_list_empty(&head.list) && !head.low);
}

Test(roster, entries_come_and_go_in_any_order)
{
	static bool in[ENTRIES + 1];
	uint64_t state = random_seed();

	kvx_roster_init(&head);
	for (uint32_t round = 0; round < 40; round++) {
		for (uint32_t i = 0; i < 1000; i++) {
			uint32_t id = random_between(&state, 1, ENTRIES);
			if (in[id])
				kvx_roster_remove(&entries[id]);
			else
				kvx_roster_insert(&head, &entries[id], id);
			in[id] = !in[id];
		}
		check(in);
	}
}

Test(roster, its_list_is_walked_while_entries_are_removed)
{
	struct kvx_list *entry, *next;
	uint64_t last = 0;

	kvx_roster_init(&head);
	for (uint32_t id = ENTRIES; id > 0; id--)
		kvx_roster_insert(&head, &entries[id], id);
	kvx_list_for_each (entry, next, &head.list) {
		struct kvx_roster *found = kvx_container_of(entry, struct kvx_roster, list);
		cr_assert_eq(found->id, last + 1);
		last = found->id;
		kvx_roster_remove(found);
	}
	cr_assert_eq(last, ENTRIES);
	cr_assert(kvx_list_empty(&head.list) && !head.low);
}
