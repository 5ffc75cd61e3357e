/* SPDX-License-Identifier: Apache-2.0 */
#include "base/options.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kvx_options *options;

static void open_options(void)
{
	cr_assert_eq(kvx_options_new(&options), 0, "%s", kvx_error_text());
}

static void close_options(void)
{
	kvx_options_free(options);
}

TestSuite(options, .init = open_options, .fini = close_options);

static void expect_refused(const char *name, const char *value)
{
	cr_assert_eq(kvx_options_set(options, name, value), KVX_E_INVALID, "%s=%s", name, value);
	cr_assert(strstr(kvx_error_text(), name), "%s", kvx_error_text());
}

static void expect_value(const char *name, const char *value, const char *shown)
{
	cr_assert_eq(kvx_options_set(options, name, value), 0, "%s", kvx_error_text());
	cr_assert_str_eq(kvx_options_get(options, name), shown);
}

Test(options, a_new_set_holds_the_defaults)
{
	struct kvx_option_info info;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		cr_assert_str_eq(kvx_options_get(options, info.name), info.initial, "%s",
				 info.name);
}

Test(options, descriptions_are_whole_and_names_unique)
{
	struct kvx_option_info info, other;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++) {
		cr_assert(*info.name && *info.kind && *info.help);
		for (uint32_t k = 0; k < i; k++) {
			kvx_option_describe(k, &other);
			cr_assert_str_neq(info.name, other.name);
		}
	}
}

Test(options, describing_past_the_last_is_refused)
{
	struct kvx_option_info info = {.name = "untouched"};

	cr_assert_eq(kvx_option_describe(UINT32_MAX, &info), KVX_E_INVALID);
	cr_assert_str_eq(info.name, "untouched");
}

Test(options, each_default_can_be_set_again)
{
	struct kvx_option_info info;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		cr_assert_eq(kvx_options_set(options, info.name, info.initial), 0, "%s",
			     kvx_error_text());
}

static void expect_number_limits(const struct kvx_option_info *info)
{
	uint64_t low, high;
	char value[32];

	cr_assert_eq(sscanf(info->range, "%" SCNu64 "..%" SCNu64, &low, &high), 2);
	snprintf(value, sizeof(value), "%" PRIu64, low);
	expect_value(info->name, value, value);
	snprintf(value, sizeof(value), "%" PRIu64, high);
	expect_value(info->name, value, value);
	snprintf(value, sizeof(value), "%" PRIu64, high + 1);
	expect_refused(info->name, value);
	snprintf(value, sizeof(value), "%" PRId64, (int64_t)low - 1);
	expect_refused(info->name, value);
}

Test(options, numbers_end_at_their_range)
{
	struct kvx_option_info info;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		if (strcmp(info.kind, "number") == 0 || strcmp(info.kind, "bytes") == 0)
			expect_number_limits(&info);
}

Test(options, bytes_take_a_suffix)
{
	expect_value("unit_bytes", "4K", "4096");
	expect_value("unit_bytes", "4k", "4096");
	expect_value("unit_bytes", "3M", "3145728");
	expect_value("unit_bytes", "1G", "1073741824");
}

Test(options, values_that_are_no_numbers_are_refused)
{
	static const char *const values[] = {
		"", " 1", "-1", "+1", "1 ", "1x", "0x10", "1K", "18446744073709551616",
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		expect_refused("heartbeat_ms", values[i]);
}

Test(options, suffixes_that_are_none_or_overflow_are_refused)
{
	static const char *const values[] = {
		"K", "1T", "1KK", "1K ", "1.5M", "18446744073709551615K", "17179869184G",
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		expect_refused("unit_bytes", values[i]);
}

Test(options, flags_are_on_or_off)
{
	expect_value("loop_copy", "off", "off");
	expect_value("loop_copy", "on", "on");
	expect_refused("loop_copy", "");
	expect_refused("loop_copy", "yes");
	expect_refused("loop_copy", "ON");
	expect_refused("loop_copy", "on|off");
}

Test(options, a_choice_is_one_of_its_list)
{
	expect_value("progress", "caller", "caller");
	expect_value("progress", "thread", "thread");
	expect_refused("progress", "");
	expect_refused("progress", "call");
	expect_refused("progress", "callers");
	expect_refused("progress", "|caller");
}

Test(options, a_text_ends_at_its_longest)
{
	char text[KVX_OPTION_TEXT_MAX + 2];

	memset(text, 'x', sizeof(text));
	text[KVX_OPTION_TEXT_MAX] = 0;
	expect_value("name", text, text);
	text[KVX_OPTION_TEXT_MAX] = 'x';
	text[KVX_OPTION_TEXT_MAX + 1] = 0;
	expect_refused("name", text);
}

Test(options, a_refused_value_leaves_the_old_one)
{
	expect_value("heartbeat_ms", "250", "250");
	expect_refused("heartbeat_ms", "9");
	cr_assert_str_eq(kvx_options_get(options, "heartbeat_ms"), "250");
}

Test(options, an_unknown_name_is_refused)
{
	expect_refused("no_such_option", "1");
	expect_refused("", "1");
	expect_refused("heartbeat", "100");
	cr_assert_null(kvx_options_get(options, "no_such_option"));
}

Test(options, null_arguments_are_refused)
{
	cr_assert_eq(kvx_options_set(NULL, "name", "x"), KVX_E_INVALID);
	cr_assert_eq(kvx_options_set(options, NULL, "x"), KVX_E_INVALID);
	cr_assert_eq(kvx_options_set(options, "name", NULL), KVX_E_INVALID);
	cr_assert_null(kvx_options_get(NULL, "name"));
	cr_assert_null(kvx_options_get(options, NULL));
	kvx_options_free(NULL);
}

Test(options, the_environment_overrides_a_default)
{
	struct kvx_options *other;

	setenv("KVX_HEARTBEAT_MS", "77", 1);
	setenv("KVX_NAME", "decode-3", 1);
	cr_assert_eq(kvx_options_new(&other), 0, "%s", kvx_error_text());
	cr_assert_str_eq(kvx_options_get(other, "heartbeat_ms"), "77");
	cr_assert_str_eq(kvx_options_get(other, "name"), "decode-3");
	kvx_options_free(other);
}

Test(options, a_bad_value_in_the_environment_is_told_with_its_variable)
{
	struct kvx_options *other = NULL;

	setenv("KVX_TCP_CONNECTIONS", "17", 1);
	cr_assert_eq(kvx_options_new(&other), KVX_E_INVALID);
	cr_assert(strstr(kvx_error_text(), "KVX_TCP_CONNECTIONS"), "%s", kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "1..16"), "%s", kvx_error_text());
	cr_assert_null(other);
}

static void remember(void *context, enum kvx_log_level level, const char *line)
{
	(void)level;
	snprintf(context, 64, "%s", line);
}

Test(options, the_log_function_is_kept)
{
	char line[64] = "";

	kvx_options_log(options, remember, line);
	kvx_log_write(&options->log, KVX_LOG_INFO, "rail %d: up", 3);
	cr_assert_str_eq(line, "rail 3: up");
	kvx_options_log(options, NULL, NULL);
	kvx_log_write(&options->log, KVX_LOG_INFO, "rail 3: down");
	cr_assert_str_eq(line, "rail 3: up");
}
