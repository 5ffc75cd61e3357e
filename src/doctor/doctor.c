/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "doctor/checkup.h"

#include <stdarg.h>
#include <stdio.h>

const char *kvx_severity_name(enum kvx_severity severity)
{
	static const char *const names[] = {
		[KVX_SEVERITY_OK] = "ok",
		[KVX_SEVERITY_NOTE] = "note",
		[KVX_SEVERITY_WARNING] = "warning",
		[KVX_SEVERITY_ERROR] = "error",
	};

	return (unsigned)severity < sizeof(names) / sizeof(names[0]) ? names[severity] : "unknown";
}

void kvx_checkup_tell(struct kvx_checkup *checkup, enum kvx_severity severity, const char *area,
		      const char *action, const char *format, ...)
{
	char found[KVX_FINDING_TEXT_MAX + 1];
	const struct kvx_finding finding = {severity, area, found, action};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(found, sizeof(found), format, arguments);
	va_end(arguments);
	if (severity > checkup->worst)
		checkup->worst = severity;
	checkup->function(checkup->context, &finding);
}

void kvx_checkup_run(struct kvx_checkup *checkup)
{
	kvx_check_gpus(checkup);
	kvx_check_rdma(checkup);
	kvx_check_locked_memory(checkup);
	kvx_check_huge_pages(checkup);
	kvx_check_numa(checkup);
	kvx_check_peer_to_peer(checkup);
	kvx_check_clock(checkup);
	kvx_check_io_uring(checkup);
	kvx_check_ports(checkup);
	kvx_check_secret(checkup);
}

int kvx_doctor_run(const struct kvx_options *options, const char *secret,
		   void (*function)(void *context, const struct kvx_finding *finding),
		   void *context)
{
	struct kvx_options *initial = NULL;

	if (!function)
		return kvx_fail(KVX_E_INVALID, "doctor: nobody to tell: pass a function");
	if (!options) {
		int error = kvx_options_new(&initial);
		if (error)
			return error;
		options = initial;
	}
	struct kvx_checkup checkup = {
		.root = "",
		.options = options,
		.secret = secret,
		.function = function,
		.context = context,
	};
	kvx_checkup_run(&checkup);
	kvx_options_free(initial);
	return (int)checkup.worst;
}
