/* SPDX-License-Identifier: Apache-2.0 */
#include "blocktable.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(bench_blocktable, specs_are_read_and_printed)
{
	static const struct {
		const char *text;
		uint32_t run;
	} rows[] = {{"identity", 0}, {"random", 1}, {"runs:4", 4}, {"runs:1000000", 1000000}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvx_blocktable_spec spec;
		char text[32];
		cr_assert_eq(kvx_blocktable_parse(rows[i].text, &spec), 0);
		cr_assert_eq(spec.run, rows[i].run);
		kvx_blocktable_print(&spec, text, sizeof(text));
		cr_assert_str_eq(text, rows[i].text);
	}
}

Test(bench_blocktable, nonsense_is_refused)
{
	static const char *const texts[] = {
		"",         "Random",  "runs",    "runs:",        "runs:0",
		"runs:x",   "runs:4x", "runs:-1", "runs:1000001", "runs:99999999999",
		"identity "};
	struct kvx_blocktable_spec spec;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		cr_assert_eq(kvx_blocktable_parse(texts[i], &spec), -1, "\"%s\"", texts[i]);
}

/* Each number once, and runs whole. */
static void assert_is_permutation(uint32_t run, uint32_t count)
{
	const struct kvx_blocktable_spec spec = {run};
	uint32_t *table = kvx_blocktable_make(&spec, 5, count);
	char *seen = calloc(count + 1, 1);

	cr_assert(table && seen);
	for (uint32_t i = 0; i < count; i++) {
		cr_assert_lt(table[i], count);
		cr_assert_eq(seen[table[i]]++, 0, "block %u twice, runs of %u", table[i], run);
		if (run > 1 && i % run)
			cr_assert_eq(table[i], table[i - 1] + 1);
	}
	free(seen);
	free(table);
}

Test(bench_blocktable, tables_hold_each_block_once)
{
	static const uint32_t runs[] = {0, 1, 2, 4, 7, 16, 5000};
	static const uint32_t counts[] = {0, 1, 2, 15, 16, 17, 1000, 4096};

	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++)
			assert_is_permutation(runs[i], counts[k]);
}

Test(bench_blocktable, the_same_seed_gives_the_same_table_and_another_does_not)
{
	const struct kvx_blocktable_spec spec = {1};
	uint32_t *first = kvx_blocktable_make(&spec, 1, 1000);
	uint32_t *again = kvx_blocktable_make(&spec, 1, 1000);
	uint32_t *other = kvx_blocktable_make(&spec, 2, 1000);

	cr_assert_eq(memcmp(first, again, 1000 * sizeof(*first)), 0);
	cr_assert_neq(memcmp(first, other, 1000 * sizeof(*first)), 0);
	free(first);
	free(again);
	free(other);
}

Test(bench_blocktable, identity_is_in_order)
{
	const struct kvx_blocktable_spec spec = {0};
	uint32_t *table = kvx_blocktable_make(&spec, 9, 100);

	for (uint32_t i = 0; i < 100; i++)
		cr_assert_eq(table[i], i);
	free(table);
}
