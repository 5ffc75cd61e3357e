/* SPDX-License-Identifier: Apache-2.0 */
/* kvxferctl: looks at engines and drives them over their control sockets. See kvxferctl(1). */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#define ENVIRONMENT "KVXFERCTL_SOCKET"

static int find_places(struct ctl *ctl, const struct ctl_command *command)
{
	const char *secret = ctl->values[CTL_SECRET].text;
	const char *given = getenv(ENVIRONMENT);

	if (ctl_has(ctl, CTL_URL)) {
		ctl->sockets[ctl->socket_count++] = ctl->values[CTL_URL].text;
	} else if (!ctl->socket_count && given && given[0]) {
		ctl->sockets[ctl->socket_count++] = given;
	}
	if (!ctl->socket_count)
		return ctl_fail(CTL_USAGE, "which engine? Give --socket PATH, the engine's option "
					   "control, or set " ENVIRONMENT);
	if (ctl->socket_count > command->places)
		return ctl_fail(CTL_USAGE, "%s speaks to %u engine%s, but %u are given",
				command->name, command->places, command->places == 1 ? "" : "s",
				ctl->socket_count);
	for (uint32_t i = 0; i < ctl->socket_count; i++) {
		int status = ctl_place_find(ctl->sockets[i], secret, &ctl->places[i]);
		if (status)
			return status;
		ctl->place_count++;
	}
	return 0;
}

static int run(struct ctl *ctl, const struct ctl_command *command)
{
	int status = command->places ? find_places(ctl, command) : 0;

	if (!status)
		status = ctl_http_open();
	if (status)
		return status;
	status = command->run(ctl);
	ctl_http_close();
	if (fflush(stdout) || ferror(stdout))
		return ctl_fail(CTL_FAILED, "standard output cannot be written in full");
	return status;
}

int main(int count, char **arguments)
{
	struct ctl *ctl = calloc(1, sizeof(*ctl));
	const struct ctl_command *command;

	if (!ctl)
		return ctl_fail_memory();
	int status = ctl_arguments_read(ctl, count, arguments, &command);
	if (!status && command)
		status = run(ctl, command);
	free(ctl);
	return status;
}
