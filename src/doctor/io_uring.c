/* SPDX-License-Identifier: Apache-2.0 */
/* Whether this process may use io_uring. */
#include "doctor/checkup.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TEXT_MAX 255u

static void tell_refusal(struct kvx_checkup *checkup, int error)
{
	char disabled[TEXT_MAX + 1];
	const char *action = "nothing: this build does without it; a container's seccomp profile "
			     "may be what refuses it";

	if (error == ENOSYS)
		action = "nothing: this build does without it; Linux 5.1 or later has it";
	if (kvx_checkup_line(checkup, disabled, sizeof(disabled),
			     "/proc/sys/kernel/io_uring_disabled") &&
	    strcmp(disabled, "0") != 0)
		action = "nothing: this build does without it; sysctl kernel.io_uring_disabled=0 "
			 "would allow it";
	kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "io_uring", action, "not available: %s",
			 strerror(error));
}

void kvx_check_io_uring(struct kvx_checkup *checkup)
{
	struct io_uring_params parameters = {0};
	long fd = syscall(__NR_io_uring_setup, 1, &parameters);

	if (fd < 0) {
		tell_refusal(checkup, errno);
		return;
	}
	close((int)fd);
	kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "io_uring", "", "available");
}
