/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a file that holds a secret is its owner's alone. */
#include "doctor/checkup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OTHERS (S_IRWXG | S_IRWXO)

static void judge(struct kvx_checkup *checkup, const struct stat *status)
{
	const char *action = NULL, *fault = NULL;

	if (!S_ISREG(status->st_mode)) {
		fault = "is no regular file";
		action = "name the file that holds the secret";
	} else if (status->st_uid != geteuid()) {
		fault = "belongs to somebody else, who can replace it";
		action = "chown it to the user that runs the engine";
	} else if (status->st_mode & OTHERS) {
		fault = "can be used by others than its owner";
		action = "chmod 600, and take a new secret, since others may have read this one";
	} else if (status->st_size == 0) {
		fault = "is empty";
		action = "write at least 32 random bytes into it (head -c 32 /dev/urandom)";
	}
	if (fault)
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "secret", action,
				 "%s %s (owner %u, mode %04o)", checkup->secret, fault,
				 (unsigned)status->st_uid, (unsigned)status->st_mode & 07777);
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "secret", "",
				 "%s is its owner's alone (mode %04o)", checkup->secret,
				 (unsigned)status->st_mode & 07777);
}

void kvx_check_secret(struct kvx_checkup *checkup)
{
	struct stat status;

	if (!checkup->secret)
		return;
	/* What cannot be opened an engine cannot read either; a pipe must not make it wait. */
	int fd = open(checkup->secret, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &status) < 0)
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "secret",
				 "create it, readable for the user that runs the engine",
				 "%s cannot be read: %s", checkup->secret, strerror(errno));
	else
		judge(checkup, &status);
	if (fd >= 0)
		close(fd);
}
