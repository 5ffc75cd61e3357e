/* SPDX-License-Identifier: Apache-2.0 */
/* In place of the control socket, in a build that has none. */
#include "base/error.h"
#include "core/control.h"

#include <kvxfer/operate.h>

static int fail_absent(const char *what)
{
	return kvx_fail(
		KVX_E_UNSUPPORTED,
		"%s: this build of kvxfer has no control socket; install libmicrohttpd, "
		"GnuTLS and jansson with their headers, and build it with -Dcontrol=enabled",
		what);
}

int kvx_control_open(struct kvx_engine *engine, struct kvx_control **control)
{
	static const char *const options[] = {"control", "control_listen"};
	char value[2];

	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int error = kvx_engine_option(engine, options[i], value, sizeof(value));
		if (error)
			return error;
		if (value[0])
			return fail_absent(options[i]);
	}
	*control = NULL;
	return 0;
}

void kvx_control_close(struct kvx_control *control)
{
	(void)control;
}

const char *kvx_control_address(const struct kvx_control *control)
{
	(void)control;
	return "";
}

/* The header says what it takes. */
/* NOLINTNEXTLINE(readability-non-const-parameter) */
int kvx_control_credentials(const char *secret_file, char *token, char *pinned)
{
	(void)secret_file;
	(void)token;
	(void)pinned;
	return fail_absent("credentials");
}
