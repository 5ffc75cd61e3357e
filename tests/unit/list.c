/* SPDX-License-Identifier: Apache-2.0 */
#include "base/list.h"

#include <criterion/criterion.h>

struct item {
	int value;
	struct kvx_list entry;
};

#define ITEMS 5

static struct kvx_list head;
static struct item items[ITEMS];

static void fill(void)
{
	kvx_list_init(&head);
	for (int i = 0; i < ITEMS; i++) {
		items[i].value = i;
		kvx_list_append(&head, &items[i].entry);
	}
}

/* The values in order, as decimal digits. */
static int digits(void)
{
	struct kvx_list *entry, *following;
	int number = 0;

	kvx_list_for_each (entry, following, &head)
		number = number * 10 + kvx_container_of(entry, struct item, entry)->value + 1;
	return number;
}

TestSuite(list, .init = fill);

Test(list, a_new_head_is_empty)
{
	kvx_list_init(&head);
	cr_assert(kvx_list_empty(&head));
	cr_assert_eq(digits(), 0);
}

Test(list, entries_keep_their_order)
{
	cr_assert_not(kvx_list_empty(&head));
	cr_assert_eq(digits(), 12345);
}

Test(list, any_entry_can_be_removed)
{
	kvx_list_remove(&items[0].entry);
	kvx_list_remove(&items[2].entry);
	kvx_list_remove(&items[4].entry);
	cr_assert_eq(digits(), 24);
}

Test(list, removing_twice_does_nothing)
{
	kvx_list_remove(&items[1].entry);
	kvx_list_remove(&items[1].entry);
	cr_assert_eq(digits(), 1345);
}

Test(list, a_removed_entry_can_be_appended_again)
{
	kvx_list_remove(&items[1].entry);
	kvx_list_append(&head, &items[1].entry);
	cr_assert_eq(digits(), 13452);
}

Test(list, the_body_may_remove_the_current_entry)
{
	struct kvx_list *entry, *following;
	int seen = 0;

	kvx_list_for_each (entry, following, &head) {
		seen++;
		if (kvx_container_of(entry, struct item, entry)->value % 2)
			kvx_list_remove(entry);
	}
	cr_assert_eq(seen, ITEMS);
	cr_assert_eq(digits(), 135);
}

Test(list, a_list_emptied_in_its_loop_is_empty)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &head)
		kvx_list_remove(entry);
	cr_assert(kvx_list_empty(&head));
}
