/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people: figures in human form, and strings that cannot play with a terminal. */
#include "ctl.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAIR_COLUMNS 14
#define BAR_COLUMNS 16u

/* The bytes of a character that a terminal may take for a command: C0, DEL, C1, and those that turn
 * the direction of writing. 0: an ordinary one. */
static size_t control_bytes(const char *text)
{
	const unsigned char *byte = (const unsigned char *)text;

	if (byte[0] < 0x20 || byte[0] == 0x7f)
		return 1;
	if (byte[0] == 0xc2 && byte[1] >= 0x80 && byte[1] <= 0x9f)
		return 2;
	if (byte[0] == 0xe2 && byte[1] == 0x80 && byte[2] >= 0x8e && byte[2] <= 0xae &&
	    (byte[2] <= 0x8f || byte[2] >= 0xa8))
		return 3;
	if (byte[0] == 0xe2 && byte[1] == 0x81 && byte[2] >= 0xa6 && byte[2] <= 0xa9)
		return 3;
	return 0;
}

char *ctl_clean(char *text)
{
	char *to = text;

	for (const char *from = text; *from;) {
		size_t bytes = control_bytes(from);
		char shown = *from;
		if (bytes)
			shown = *from == '\n' || *from == '\t' ? ' ' : '?';
		*to++ = shown;
		from += bytes ? bytes : 1;
	}
	*to = 0;
	return text;
}

static bool begins_character(char byte)
{
	return ((unsigned char)byte & 0xc0) != 0x80;
}

uint32_t ctl_columns(const char *text)
{
	uint32_t columns = 0;

	for (; *text; text++)
		columns += begins_character(*text);
	return columns;
}

size_t ctl_cut(const char *text, uint32_t columns)
{
	size_t bytes = 0;

	for (uint32_t seen = 0; text[bytes]; bytes++) {
		if (begins_character(text[bytes]) && seen++ == columns)
			break;
	}
	return bytes;
}

struct ctl_short ctl_bytes(uint64_t bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	struct ctl_short made;
	double value = (double)bytes / 1024;
	uint32_t unit = 0;

	if (bytes < 1024) {
		snprintf(made.text, sizeof(made.text), "%" PRIu64 " B", bytes);
		return made;
	}
	for (; value >= 1024 && unit < 5; unit++)
		value /= 1024;
	snprintf(made.text, sizeof(made.text), "%.1f %s", value, units[unit]);
	return made;
}

struct ctl_short ctl_time(uint64_t ms)
{
	struct ctl_short made;
	uint64_t s = ms / 1000;

	if (ms < 1000)
		snprintf(made.text, sizeof(made.text), "%" PRIu64 " ms", ms);
	else if (s < 60)
		snprintf(made.text, sizeof(made.text), "%.1f s", (double)ms / 1000);
	else if (s < 3600)
		snprintf(made.text, sizeof(made.text), "%" PRIu64 " min %" PRIu64 " s", s / 60,
			 s % 60);
	else if (s < 86400)
		snprintf(made.text, sizeof(made.text), "%" PRIu64 " h %" PRIu64 " min", s / 3600,
			 s / 60 % 60);
	else
		snprintf(made.text, sizeof(made.text), "%" PRIu64 " d %" PRIu64 " h", s / 86400,
			 s / 3600 % 24);
	return made;
}

struct ctl_short ctl_bar(uint64_t done, uint64_t all)
{
	struct ctl_short made = {"["};
	uint32_t full = all ? (uint32_t)((double)done / (double)all * BAR_COLUMNS) : 0;

	for (uint32_t i = 0; i < BAR_COLUMNS; i++)
		made.text[1 + i] = i < full ? '#' : '-';
	memcpy(made.text + 1 + BAR_COLUMNS, "]", 2);
	return made;
}

int ctl_fail(int status, const char *format, ...)
{
	char text[2 * CTL_TEXT_MAX];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fflush(stdout);
	fprintf(stderr, "kvxferctl: %s\n", ctl_clean(text));
	return status;
}

int ctl_fail_memory(void)
{
	return ctl_fail(CTL_FAILED, "out of memory");
}

void ctl_pair(FILE *file, const char *name, const char *format, ...)
{
	char *text, shown_name[KVX_NAME_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	if (vasprintf(&text, format, arguments) < 0)
		text = NULL;
	va_end(arguments);
	snprintf(shown_name, sizeof(shown_name), "%s", name);
	if (text)
		fprintf(file, "%-*s %s\n", PAIR_COLUMNS, ctl_clean(shown_name), ctl_clean(text));
	free(text);
}

void ctl_write_raw(const char *text, size_t size)
{
	if (!isatty(STDOUT_FILENO)) {
		fwrite(text, 1, size, stdout);
	} else {
		/* What comes in pieces may be cut within a character; a lone byte is harmless. */
		char window[4] = {0};
		for (size_t i = 0; i < size; i++) {
			size_t left = size - i < 3 ? size - i : 3;
			memset(window, 0, sizeof(window));
			memcpy(window, text + i, left);
			size_t bytes = control_bytes(window);
			bool is_layout = text[i] == '\n' || text[i] == '\t';
			putchar(bytes && !is_layout ? '?' : text[i]);
			i += bytes ? bytes - 1 : 0;
		}
	}
}

bool ctl_terminal(uint32_t *columns, uint32_t *rows)
{
	struct winsize size;

	*columns = 80;
	*rows = 24;
	if (!isatty(STDOUT_FILENO))
		return false;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row) {
		*columns = size.ws_col;
		*rows = size.ws_row;
	}
	return true;
}

const char *ctl_text(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

uint64_t ctl_number(const json_t *object, const char *name)
{
	json_int_t number = json_integer_value(json_object_get(object, name));

	return number > 0 ? (uint64_t)number : 0;
}

bool ctl_flag(const json_t *object, const char *name)
{
	return json_is_true(json_object_get(object, name));
}
