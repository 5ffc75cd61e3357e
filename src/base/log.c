/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void kvx_log_write(const struct kvx_log *log, enum kvx_log_level level, const char *format, ...)
{
	char line[1024];
	va_list arguments;

	if (!log->function)
		return;
	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	log->function(log->context, level, line);
}
