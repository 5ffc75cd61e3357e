/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/text.h"

#include <stdarg.h>
#include <stdio.h>

void kvx_text_add(struct kvx_text *text, const char *format, ...)
{
	size_t used = text->length < text->size ? text->length : text->size;
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(text->size ? text->at + used : NULL, text->size - used, format,
			       arguments);
	va_end(arguments);
	text->length += length > 0 ? (size_t)length : 0;
}
