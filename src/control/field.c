/* SPDX-License-Identifier: Apache-2.0 */
/* What a request asks: its query and the fields of its body, each checked before it is used. */
#include "control/server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUOTED 40 /* characters of a client's text that an error repeats */

/* --- the query --- */

const char *kvx_request_query(struct kvx_request *request, const char *name)
{
	return MHD_lookup_connection_value(kvx_exchange_of(request)->connection,
					   MHD_GET_ARGUMENT_KIND, name);
}

bool kvx_request_number(struct kvx_request *request, const char *name, uint64_t initial,
			uint64_t low, uint64_t high, uint64_t *number)
{
	const char *text = kvx_request_query(request, name);
	char *end;

	if (!text) {
		*number = initial;
		return true;
	}
	errno = 0;
	unsigned long long parsed = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || parsed < low || parsed > high) {
		kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
				   "query: %s=%.*s: must be a number from %" PRIu64 " to %" PRIu64,
				   name, QUOTED, text, low, high);
		return false;
	}
	*number = parsed;
	return true;
}

bool kvx_request_flag(struct kvx_request *request, const char *name, bool initial, bool *flag)
{
	const char *text = kvx_request_query(request, name);

	*flag = text ? strcmp(text, "true") == 0 : initial;
	if (!text || *flag || strcmp(text, "false") == 0)
		return true;
	kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
			   "query: %s=%.*s: must be true or false", name, QUOTED, text);
	return false;
}

/* --- fields --- */

static int digit_of(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *found = c ? strchr(digits, c) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* Strict: whole groups of four, no blanks. 0, or what is wrong: -1 not base64, -2 no memory. */
static int decode_base64(const char *text, size_t length, struct kvx_bytes *bytes)
{
	uint8_t *made = malloc(length / 4 * 3 + 1);
	size_t padding = length && text[length - 1] == '=', size = 0;

	if (!made)
		return -2;
	padding += padding && length > 1 && text[length - 2] == '=';
	if (length % 4)
		goto fail;
	for (size_t i = 0; i < length; i += 4) {
		size_t wanted = i + 4 == length ? 4 - padding : 4;
		uint32_t group = 0;
		for (size_t k = 0; k < 4; k++) {
			int digit = k < wanted ? digit_of(text[i + k]) : 0;
			if (digit < 0)
				goto fail;
			group = group << 6 | (uint32_t)digit;
		}
		for (size_t k = 0; k + 1 < wanted; k++)
			made[size++] = (uint8_t)(group >> (16 - 8 * k));
	}
	*bytes = (struct kvx_bytes){made, size};
	return 0;

fail:
	free(made);
	return -1;
}

static const char *const wanted_kinds[] = {
	"a whole number", "true or false", "a string", "base64 in a string", "a list", "an object",
};

static bool refuse(struct kvx_request *request, const char *where, const char *name,
		   const char *what)
{
	kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID, "body: %s%s\"%.*s\": %s",
			   where, *where ? ": " : "", QUOTED, name, what);
	return false;
}

static bool take_number(struct kvx_request *request, json_t *value, const char *where,
			const struct kvx_field *field)
{
	json_int_t number = json_integer_value(value);
	char what[96];

	if (number >= 0 && (uint64_t)number >= field->low && (uint64_t)number <= field->high) {
		*(uint64_t *)field->value = (uint64_t)number;
		return true;
	}
	snprintf(what, sizeof(what),
		 "%" JSON_INTEGER_FORMAT ": must be from %" PRIu64 " to %" PRIu64, number,
		 field->low, field->high);
	return refuse(request, where, field->name, what);
}

static bool take_bytes(struct kvx_request *request, json_t *value, const char *where,
		       const struct kvx_field *field)
{
	size_t length = json_string_length(value);
	struct kvx_bytes bytes;
	char what[64];

	if (length / 4 > field->high / 3 + 1) {
		snprintf(what, sizeof(what), "must be of at most %" PRIu64 " bytes", field->high);
		return refuse(request, where, field->name, what);
	}
	int error = decode_base64(json_string_value(value), length, &bytes);
	if (error == -2) {
		kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_MEMORY,
				   "body: out of memory");
		return false;
	}
	if (error)
		return refuse(request, where, field->name, "is not base64");
	if (bytes.size > field->high || bytes.size < field->low) {
		free(bytes.data);
		snprintf(what, sizeof(what), "must be of %" PRIu64 " to %" PRIu64 " bytes",
			 field->low, field->high);
		return refuse(request, where, field->name, what);
	}
	*(struct kvx_bytes *)field->value = bytes;
	return true;
}

static bool take_list(struct kvx_request *request, json_t *value, const char *where,
		      const struct kvx_field *field)
{
	char what[64];

	if (json_array_size(value) <= field->high) {
		*(json_t **)field->value = value;
		return true;
	}
	snprintf(what, sizeof(what), "must have at most %" PRIu64 " entries", field->high);
	return refuse(request, where, field->name, what);
}

static bool is_kind(const json_t *value, enum kvx_field_kind kind)
{
	switch (kind) {
	case KVX_FIELD_NUMBER:
		return json_is_integer(value);
	case KVX_FIELD_FLAG:
		return json_is_boolean(value);
	case KVX_FIELD_TEXT:
	case KVX_FIELD_BYTES:
		return json_is_string(value);
	case KVX_FIELD_LIST:
		return json_is_array(value);
	case KVX_FIELD_OBJECT:
		return json_is_object(value);
	}
	return false;
}

static bool take(struct kvx_request *request, json_t *value, const char *where,
		 const struct kvx_field *field)
{
	char what[64];

	if (!is_kind(value, field->kind)) {
		snprintf(what, sizeof(what), "must be %s", wanted_kinds[field->kind]);
		return refuse(request, where, field->name, what);
	}
	switch (field->kind) {
	case KVX_FIELD_NUMBER:
		return take_number(request, value, where, field);
	case KVX_FIELD_FLAG:
		*(bool *)field->value = json_is_true(value);
		return true;
	case KVX_FIELD_TEXT:
		*(const char **)field->value = json_string_value(value);
		return true;
	case KVX_FIELD_BYTES:
		return take_bytes(request, value, where, field);
	case KVX_FIELD_LIST:
		return take_list(request, value, where, field);
	case KVX_FIELD_OBJECT:
		*(json_t **)field->value = value;
		return true;
	}
	return false;
}

static bool is_known(const struct kvx_field *fields, uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++)
		if (strcmp(fields[i].name, name) == 0)
			return true;
	return false;
}

static bool refuse_unknown(struct kvx_request *request, const char *where, const char *name,
			   const struct kvx_field *fields, uint32_t count)
{
	char what[256] = "there is no such field";
	size_t length = strlen(what);

	for (uint32_t i = 0; i < count && length < sizeof(what); i++)
		length += (size_t)snprintf(what + length, sizeof(what) - length, "%s%s",
					   i ? ", " : "; known are ", fields[i].name);
	return refuse(request, where, name, what);
}

/* What the first `count` fields have taken. */
static void give_back(json_t *object, const struct kvx_field *fields, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct kvx_bytes *bytes = fields[i].value;
		if (fields[i].kind != KVX_FIELD_BYTES || !json_object_get(object, fields[i].name))
			continue;
		free(bytes->data);
		*bytes = (struct kvx_bytes){0};
	}
}

bool kvx_request_fields(struct kvx_request *request, json_t *object, const char *where,
			const struct kvx_field *fields, uint32_t count)
{
	const char *name;
	json_t *value;

	json_object_foreach(object, name, value)
	{
		if (!is_known(fields, count, name))
			return refuse_unknown(request, where, name, fields, count);
	}
	for (uint32_t i = 0; i < count; i++) {
		value = json_object_get(object, fields[i].name);
		if (!value && !fields[i].needed)
			continue;
		if (value ? take(request, value, where, &fields[i])
			  : refuse(request, where, fields[i].name, "is missing"))
			continue;
		give_back(object, fields, i);
		return false;
	}
	return true;
}

uint32_t *kvx_request_blocks(struct kvx_request *request, json_t *list, uint32_t *count)
{
	size_t length = json_array_size(list), index;
	json_t *value;

	if (length > KVX_TABLE_MAX) {
		kvx_answer_problem(request, MHD_HTTP_TOO_MANY_REQUESTS, KVX_E_LIMIT,
				   "body: %zu blocks: at most %u", length, KVX_TABLE_MAX);
		return NULL;
	}
	uint32_t *blocks = malloc((length + 1) * sizeof(*blocks));
	if (!blocks) {
		kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_MEMORY,
				   "body: no memory for %zu blocks", length);
		return NULL;
	}
	json_array_foreach(list, index, value)
	{
		json_int_t block = json_integer_value(value);
		if (!json_is_integer(value) || block < 0 || block > UINT32_MAX) {
			kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
					   "body: \"blocks\": entry %zu is not a number from 0 to "
					   "%u",
					   index, UINT32_MAX);
			free(blocks);
			return NULL;
		}
		blocks[index] = (uint32_t)block;
	}
	*count = (uint32_t)length;
	return blocks;
}
