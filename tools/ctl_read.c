/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in arguments: numbers, blocks, layers, tails and tickets. */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TICKET_MAX CTL_BODY_MAX

bool ctl_read_number(const char *text, uint64_t low, uint64_t high, uint64_t *number)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (errno || *end || value < low || value > high)
		return false;
	*number = value;
	return true;
}

int ctl_read_id(const char *what, const char *text, uint64_t *id)
{
	if (ctl_read_number(text, 1, INT64_MAX, id))
		return 0;
	return ctl_fail(CTL_USAGE, "%s: is not the id of a %s, which is a number above 0", text,
			what);
}

/* "3" or "3-7", of text that is changed. */
static bool read_range(char *text, uint64_t high, uint64_t *first, uint64_t *last)
{
	char *dash = strchr(text, '-');

	if (dash)
		*dash = 0;
	if (!ctl_read_number(text, 0, high, first))
		return false;
	*last = *first;
	return !dash || ctl_read_number(dash + 1, *first, high, last);
}

static int append_range(json_t *blocks, char *text)
{
	uint64_t first, last;

	if (!read_range(text, UINT32_MAX - 1, &first, &last))
		return ctl_fail(CTL_USAGE, "%s: is no block, nor a range such as 0-15", text);
	/* Each takes two bytes of the request at least. */
	if (last - first >= CTL_BODY_MAX / 2 - json_array_size(blocks))
		return ctl_fail(CTL_USAGE, "these are more blocks than a request of %u bytes holds",
				CTL_BODY_MAX);
	for (uint64_t block = first; block <= last; block++)
		if (json_array_append_new(blocks, json_integer((json_int_t)block)))
			return ctl_fail_memory();
	return 0;
}

int ctl_read_blocks(const char *text, json_t **blocks)
{
	char *copy = strdup(text), *rest = copy, *one;
	json_t *array = json_array();
	int status = copy && array ? 0 : ctl_fail_memory();

	while (!status && (one = strsep(&rest, ",")))
		status = append_range(array, one);
	free(copy);
	if (status)
		json_decref(array);
	else
		*blocks = array;
	return status;
}

int ctl_read_tail(const char *text, json_t **tail)
{
	char copy[72], *rest = copy, *one;
	uint64_t numbers[3];
	uint32_t count = 0;

	if (strlen(text) < sizeof(copy)) {
		strcpy(copy, text);
		while ((one = strsep(&rest, ":")) && count < 3 &&
		       ctl_read_number(one, 0, INT64_MAX, &numbers[count]))
			count++;
	}
	if (count != 3 || rest)
		return ctl_fail(CTL_USAGE, "--tail=%s: must be REGION:OFFSET:BYTES, as 1:0:4096",
				text);
	*tail = json_pack("{sI, sI, sI}", "region", (json_int_t)numbers[0], "offset",
			  (json_int_t)numbers[1], "bytes", (json_int_t)numbers[2]);
	return *tail ? 0 : ctl_fail_memory();
}

int ctl_read_layers(const char *text, json_t **body)
{
	char copy[48] = "";
	uint64_t first, last;

	if (strcmp(text, "all") == 0 || strcmp(text, "tail") == 0) {
		*body = json_pack("{sb}", text, 1);
		return *body ? 0 : ctl_fail_memory();
	}
	if (strlen(text) < sizeof(copy))
		strcpy(copy, text);
	if (!read_range(copy, KVX_LAYERS_MAX - 1, &first, &last))
		return ctl_fail(CTL_USAGE, "%s: must be a layer, a range such as 0-15, all or tail",
				text);
	*body = json_pack("{sI, sI}", "first", (json_int_t)first, "count",
			  (json_int_t)last - (json_int_t)first + 1);
	return *body ? 0 : ctl_fail_memory();
}

/* Reads all of a file, up to the longest ticket. */
static char *read_file(FILE *file, const char *name)
{
	char *text = malloc(TICKET_MAX + 1);

	if (!text) {
		ctl_fail_memory();
		return NULL;
	}
	size_t size = fread(text, 1, TICKET_MAX + 1, file);
	if (ferror(file) || size > TICKET_MAX) {
		ctl_fail(CTL_USAGE, "%s: %s", name,
			 ferror(file) ? strerror(errno) : "is too large to be a ticket");
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

static char *open_and_read(const char *name)
{
	FILE *file = fopen(name, "re");

	if (!file) {
		ctl_fail(CTL_USAGE, "%s: %s", name, strerror(errno));
		return NULL;
	}
	char *text = read_file(file, name);
	fclose(file);
	return text;
}

int ctl_read_ticket(const char *text, char **ticket)
{
	static const char base64[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
	static const char blanks[] = " \t\r\n";
	char *found;

	if (strcmp(text, "-") == 0)
		found = read_file(stdin, "standard input");
	else if (text[0] == '@')
		found = open_and_read(text + 1);
	else if (!(found = strdup(text)))
		ctl_fail_memory();
	if (!found)
		return CTL_USAGE;
	size_t before = strspn(found, blanks), bytes = strspn(found + before, base64);
	if (!bytes || found[before + bytes + strspn(found + before + bytes, blanks)]) {
		free(found);
		return ctl_fail(CTL_USAGE,
				"%.40s: is no ticket: must be base64, @FILE, or - for "
				"standard input",
				text);
	}
	memmove(found, found + before, bytes);
	found[bytes] = 0;
	*ticket = found;
	return 0;
}
