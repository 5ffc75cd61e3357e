/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

static const struct {
	int code;
	const char *name, *broken, *text;
} table[] = {
#define ROW(name, value, broken, text) {name, #name, broken, text},
	KVX_ERROR_TABLE(ROW)
#undef ROW
};

#define ROW_COUNT (sizeof(table) / sizeof(table[0]))

Test(error, names_codes_and_texts_are_unique)
{
	for (size_t i = 0; i < ROW_COUNT; i++)
		for (size_t k = 0; k < i; k++) {
			cr_assert_neq(table[i].code, table[k].code, "%s", table[i].name);
			cr_assert_str_neq(table[i].name, table[k].name);
			cr_assert_str_neq(table[i].text, table[k].text);
		}
}

Test(error, codes_are_negative)
{
	for (size_t i = 0; i < ROW_COUNT; i++)
		cr_assert_lt(table[i].code, 0, "%s", table[i].name);
}

Test(error, texts_are_clauses_without_a_full_stop)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		size_t length = strlen(table[i].text);
		cr_assert_gt(length, 0);
		cr_assert_neq(table[i].text[length - 1], '.', "%s", table[i].name);
	}
}

Test(error, what_is_broken_is_one_of_four)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		const char *broken = table[i].broken;
		cr_assert(strcmp(broken, "call") == 0 || strcmp(broken, "transfer") == 0 ||
				  strcmp(broken, "peer") == 0 || strcmp(broken, "engine") == 0,
			  "%s: %s", table[i].name, broken);
	}
}

Test(error, each_row_is_reached_by_its_code)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		cr_assert_str_eq(kvx_strerror(table[i].code), table[i].text);
		cr_assert_str_eq(kvx_error_name(table[i].code), table[i].name);
		cr_assert_str_eq(kvx_error_broken(table[i].code), table[i].broken);
	}
}

Test(error, codes_that_do_not_exist_have_texts_too)
{
	static const int codes[] = {0, 1, -20, -1000, INT32_MIN, INT32_MAX};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		cr_assert_not_null(kvx_strerror(codes[i]));
		cr_assert_not_null(kvx_error_name(codes[i]));
		cr_assert_not_null(kvx_error_broken(codes[i]));
	}
}

Test(error, the_text_is_empty_before_the_first_failure)
{
	cr_assert_str_empty(kvx_error_text());
}

Test(error, a_failure_returns_its_code_and_leaves_its_text)
{
	cr_assert_eq(kvx_fail(KVX_E_LIMIT, "grant: %u are open", 7u), KVX_E_LIMIT);
	cr_assert_str_eq(kvx_error_text(), "grant: 7 are open");
}

Test(error, a_text_may_quote_the_one_before_it)
{
	kvx_fail(KVX_E_SYSTEM, "socket: refused");
	kvx_fail(KVX_E_SYSTEM, "tcp: %s", kvx_error_text());
	cr_assert_str_eq(kvx_error_text(), "tcp: socket: refused");
}

Test(error, a_long_text_is_cut_at_the_limit)
{
	char text[2 * KVX_ERROR_TEXT_MAX];

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	kvx_fail(KVX_E_INVALID, "%s", text);
	cr_assert_eq(strlen(kvx_error_text()), KVX_ERROR_TEXT_MAX);
}

static void *fail_elsewhere(void *argument)
{
	kvx_fail(KVX_E_INVALID, "of the other thread");
	return argument;
}

Test(error, a_thread_keeps_its_own_text)
{
	pthread_t thread;

	kvx_fail(KVX_E_INVALID, "of this thread");
	cr_assert_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
	pthread_join(thread, NULL);
	cr_assert_str_eq(kvx_error_text(), "of this thread");
}

Test(error, the_version_is_that_of_the_header)
{
	cr_assert_str_eq(kvx_version(), KVX_VERSION);
}
