/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char error_text[KVX_ERROR_TEXT_MAX + 1];

static const struct {
	int code;
	const char *name, *broken, *text;
} table[] = {
#define ROW(name, value, broken, text) {value, #name, broken, text},
	KVX_ERROR_TABLE(ROW)
#undef ROW
};

static int row_of(int code)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].code == code)
			return (int)i;
	return -1;
}

const char *kvx_strerror(int code)
{
	int row = row_of(code);
	return code == 0 ? "no error" : row < 0 ? "unknown error" : table[row].text;
}

const char *kvx_error_name(int code)
{
	int row = row_of(code);
	return code == 0 ? "KVX_OK" : row < 0 ? "KVX_E_UNKNOWN" : table[row].name;
}

const char *kvx_error_broken(int code)
{
	int row = row_of(code);
	return code == 0 ? "nothing" : row < 0 ? "unknown" : table[row].broken;
}

const char *kvx_error_text(void)
{
	return error_text;
}

const char *kvx_version(void)
{
	return KVX_VERSION;
}

/* In parentheses, so that no macro of that name is meant. */
int(kvx_fail)(int code, const char *format, ...)
{
	/* The new text may quote the old one. */
	char text[sizeof(error_text)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	snprintf(error_text, sizeof(error_text), "%s", text);
	return code;
}
