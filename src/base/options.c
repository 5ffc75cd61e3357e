/* SPDX-License-Identifier: Apache-2.0 */
#include "base/options.h"

#include "base/error.h"

#include <kvxfer/operate.h>

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, CHOICE, NUMBER, BYTES, FLAG };

struct row {
	enum kind kind;
	struct kvx_option_info info;
	size_t offset;
	uint64_t low, high;
};

#define RANGE(low, high) #low ".." #high
#define TEXT_ROW(field, initial, help) \
	{TEXT, {#field, "text", initial, "", help}, offsetof(struct kvx_options, field), 0, 0},
#define CHOICE_ROW(field, initial, choices, help)    \
	{CHOICE,                                     \
	 {#field, "choice", initial, choices, help}, \
	 offsetof(struct kvx_options, field),        \
	 0,                                          \
	 0},
#define NUMBER_ROW(field, initial, low, high, help)            \
	{NUMBER,                                               \
	 {#field, "number", #initial, RANGE(low, high), help}, \
	 offsetof(struct kvx_options, field),                  \
	 low,                                                  \
	 high},
#define BYTES_ROW(field, initial, low, high, help)            \
	{BYTES,                                               \
	 {#field, "bytes", #initial, RANGE(low, high), help}, \
	 offsetof(struct kvx_options, field),                 \
	 low,                                                 \
	 high},
#define FLAG_ROW(field, initial, help)                               \
	{FLAG,                                                       \
	 {#field, "flag", (initial) ? "on" : "off", "on|off", help}, \
	 offsetof(struct kvx_options, field),                        \
	 0,                                                          \
	 0},

static const struct row rows[] = {
	KVX_OPTION_TABLE(TEXT_ROW, CHOICE_ROW, NUMBER_ROW, BYTES_ROW, FLAG_ROW)};

#define LIVE_NAME(field) #field,

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

int kvx_option_describe(uint32_t index, struct kvx_option_info *info)
{
	if (index >= ROW_COUNT)
		return kvx_fail(KVX_E_INVALID, "option %u: there are %zu", index, ROW_COUNT);
	*info = rows[index].info;
	return 0;
}

static const struct row *find(const char *name)
{
	for (size_t i = 0; i < ROW_COUNT; i++)
		if (strcmp(rows[i].info.name, name) == 0)
			return &rows[i];
	return NULL;
}

static int fail_unknown(const char *name)
{
	return kvx_fail(KVX_E_INVALID, "option %.64s: no such option", name ? name : "(NULL)");
}

static int refuse(const struct row *row, const char *value)
{
	return kvx_fail(KVX_E_INVALID, "option %s: \"%.64s\" is not a %s in %s", row->info.name,
			value, row->info.kind, row->info.range);
}

static bool is_choice(const char *choices, const char *value)
{
	size_t length = strlen(value);

	if (length == 0 || strchr(value, '|'))
		return false;
	for (const char *choice = choices; choice; choice = strchr(choice, '|')) {
		choice += *choice == '|';
		if (strncmp(choice, value, length) == 0 &&
		    (!choice[length] || choice[length] == '|'))
			return true;
	}
	return false;
}

static bool parse_number(const struct row *row, const char *value, uint64_t *number)
{
	char *end;

	if (!isdigit((unsigned char)value[0]))
		return false;
	errno = 0;
	unsigned long long parsed = strtoull(value, &end, 10);
	if (errno)
		return false;
	unsigned shift = 0;
	if (row->kind == BYTES && *end) {
		const char *suffix = strchr("KMG", toupper((unsigned char)*end));
		if (!suffix)
			return false;
		shift = 10 * (unsigned)(suffix - "KMG" + 1);
		end++;
	}
	if (*end || parsed > UINT64_MAX >> shift)
		return false;
	*number = (uint64_t)parsed << shift;
	return *number >= row->low && *number <= row->high;
}

static int set(struct kvx_options *options, const struct row *row, const char *value)
{
	char *field = (char *)options + row->offset;
	uint64_t number;
	bool flag;

	switch (row->kind) {
	case CHOICE:
		if (!is_choice(row->info.range, value))
			return refuse(row, value);
		/* fall through */
	case TEXT:
		if (strlen(value) > KVX_OPTION_TEXT_MAX)
			return kvx_fail(KVX_E_INVALID, "option %s: longer than %u characters",
					row->info.name, KVX_OPTION_TEXT_MAX);
		strcpy(field, value);
		return 0;
	case NUMBER:
	case BYTES:
		if (!parse_number(row, value, &number))
			return refuse(row, value);
		memcpy(field, &number, sizeof(number));
		return 0;
	case FLAG:
		if (!is_choice(row->info.range, value))
			return refuse(row, value);
		flag = strcmp(value, "on") == 0;
		memcpy(field, &flag, sizeof(flag));
		return 0;
	}
	return refuse(row, value);
}

static int set_from_environment(struct kvx_options *options, const struct row *row)
{
	char variable[64] = "KVX_";

	for (size_t i = 0; row->info.name[i]; i++)
		variable[4 + i] = (char)toupper((unsigned char)row->info.name[i]);
	const char *value = getenv(variable);
	if (!value)
		return 0;
	int error = set(options, row, value);
	return error ? kvx_fail(error, "environment: %s: %s", variable, kvx_error_text()) : 0;
}

int kvx_options_new(struct kvx_options **options)
{
	struct kvx_options *made = calloc(1, sizeof(*made));
	int error = 0;

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "options: out of memory");
	for (size_t i = 0; i < ROW_COUNT && !error; i++) {
		error = set(made, &rows[i], rows[i].info.initial);
		if (!error)
			error = set_from_environment(made, &rows[i]);
	}
	if (error) {
		free(made);
		return error;
	}
	*options = made;
	return 0;
}

void kvx_options_free(struct kvx_options *options)
{
	free(options);
}

int kvx_options_set(struct kvx_options *options, const char *name, const char *value)
{
	if (!options || !name || !value)
		return kvx_fail(KVX_E_INVALID, "options: NULL argument");
	const struct row *row = find(name);
	return row ? set(options, row, value) : fail_unknown(name);
}

int kvx_option_text(const struct kvx_options *options, const char *name, char *text, size_t size)
{
	const struct row *row = options && name ? find(name) : NULL;

	if (!row)
		return fail_unknown(name);
	const char *field = (const char *)options + row->offset;
	switch (row->kind) {
	case TEXT:
	case CHOICE:
		snprintf(text, size, "%s", field);
		break;
	case FLAG:
		snprintf(text, size, "%s", *(const bool *)field ? "on" : "off");
		break;
	case NUMBER:
	case BYTES:
		snprintf(text, size, "%llu",
			 (unsigned long long)__atomic_load_n((const uint64_t *)field,
							     __ATOMIC_RELAXED));
	}
	return 0;
}

const char *kvx_options_get(struct kvx_options *options, const char *name)
{
	int error = kvx_option_text(options, name, options ? options->shown : NULL,
				    sizeof(options->shown));

	return error ? NULL : options->shown;
}

bool kvx_option_is_live(const char *name)
{
	static const char *const live[] = {KVX_LIVE_OPTION_TABLE(LIVE_NAME)};

	for (size_t i = 0; name && i < sizeof(live) / sizeof(live[0]); i++)
		if (strcmp(live[i], name) == 0)
			return true;
	return false;
}

int kvx_option_change(struct kvx_options *options, const char *name, const char *value)
{
	const struct row *row = name && value ? find(name) : NULL;
	uint64_t number;

	if (!row)
		return fail_unknown(name);
	if (!kvx_option_is_live(name))
		return kvx_fail(KVX_E_INVALID,
				"option %s: it is fixed once the engine is open; set it before",
				name);
	if (!parse_number(row, value, &number))
		return refuse(row, value);
	__atomic_store_n((uint64_t *)((char *)options + row->offset), number, __ATOMIC_RELAXED);
	return 0;
}

void kvx_options_log(struct kvx_options *options,
		     void (*function)(void *context, enum kvx_log_level level, const char *line),
		     void *context)
{
	options->log = (struct kvx_log){function, context};
}
