/* SPDX-License-Identifier: Apache-2.0 */
/* Whether an engine opens with these options: its ports are free and its addresses are there. */
#include "doctor/checkup.h"

#include <stdio.h>
#include <string.h>

#define TEXT_MAX (2 * KVX_OPTION_TEXT_MAX + 1)

/* "verbs_listen 10.0.0.1:4711" */
static void name_address(const struct kvx_options *options, const char *transport,
			 char text[TEXT_MAX + 1])
{
	bool has_own = strcmp(transport, "verbs") == 0 && options->verbs_listen[0];

	snprintf(text, TEXT_MAX + 1, "%s %s", has_own ? "verbs_listen" : "listen",
		 has_own ? options->verbs_listen : options->listen);
}

/* With nothing but that transport, and without a thread of its own. */
static void check_transport(struct kvx_checkup *checkup, const char *transport)
{
	struct kvx_options options = *checkup->options;
	struct kvx_engine *engine;
	char address[TEXT_MAX + 1];

	name_address(&options, transport, address);
	snprintf(options.transports, sizeof(options.transports), "%s", transport);
	snprintf(options.progress, sizeof(options.progress), "caller");
	snprintf(options.topology, sizeof(options.topology), "off");
	if (kvx_engine_open(&options, &engine)) {
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "ports",
				 "end what uses the port (ss -ltnp), or correct the option that is "
				 "named",
				 "an engine with transport %s (%s) does not open: %s", transport,
				 address, kvx_error_text());
		return;
	}
	kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "ports", "",
			 "an engine with transport %s (%s) opens at %s", transport, address,
			 kvx_engine_address(engine));
	kvx_engine_close(engine);
}

void kvx_check_ports(struct kvx_checkup *checkup)
{
	check_transport(checkup, "tcp");
	if (checkup->device_count)
		check_transport(checkup, "verbs");
}
