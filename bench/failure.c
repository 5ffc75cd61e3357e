/* SPDX-License-Identifier: Apache-2.0 */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char failure_text[KVX_FAILURE_TEXT_MAX + 1];

int kvx_failure_set(const char *format, ...)
{
	/* The new text may quote the old one. */
	char text[sizeof(failure_text)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	snprintf(failure_text, sizeof(failure_text), "%s", text);
	return -1;
}

const char *kvx_failure_text(void)
{
	return failure_text;
}
