/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines: lower case, no full stop, object first; nothing per slice. */
#ifndef KVX_BASE_LOG_H
#define KVX_BASE_LOG_H

#include <kvxfer/kvxfer.h>

struct kvx_log {
	void (*function)(void *context, enum kvx_log_level level, const char *line);
	void *context;
};

/* Any thread. Does nothing where no function is set. */
void kvx_log_write(const struct kvx_log *log, enum kvx_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
