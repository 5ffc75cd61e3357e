/* SPDX-License-Identifier: Apache-2.0 */
#include "child.h"

#include "clock.h"
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_NS (5 * NS_PER_MS)

/* Standard output or error. */
static void redirect(int target, int source, int nowhere)
{
	if (source != KVX_CHILD_INHERIT)
		dup2(source == KVX_CHILD_SILENT ? nowhere : source, target);
}

/* Between fork and exec: nothing here may allocate or lock. */
static _Noreturn void become(char *const arguments[], int output, int errors, pid_t parent,
			     int told)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	/* The parent may have ended before that took effect. */
	if (getppid() != parent)
		_exit(1);
	int nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (output != KVX_CHILD_INHERIT)
		dup2(nowhere, 0);
	redirect(1, output, nowhere);
	redirect(2, errors, nowhere);
	execvp(arguments[0], arguments);
	int error = errno;
	ssize_t written = write(told, &error, sizeof(error));
	_exit(written > 0 ? 127 : 126);
}

/* The pipe closes when the program runs, or tells why it does not. */
static int hear_of_exec(int fd)
{
	int error = 0;
	ssize_t got;

	do {
		got = read(fd, &error, sizeof(error));
	} while (got < 0 && errno == EINTR);
	return got == (ssize_t)sizeof(error) ? error : 0;
}

int kvx_child_start(char *const arguments[], int output, int errors, pid_t *child)
{
	pid_t parent = getpid();
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return kvx_failure_set("%s: no pipe: %s", arguments[0], strerror(errno));
	pid_t made = fork();
	int error = made < 0 ? errno : 0;
	if (made == 0)
		become(arguments, output, errors, parent, ends[1]);
	close(ends[1]);
	if (!error)
		error = hear_of_exec(ends[0]);
	close(ends[0]);
	if (error && made > 0)
		waitpid(made, NULL, 0);
	if (error) {
		kvx_failure_set("%s: cannot run it: %s", arguments[0], strerror(error));
		errno = error;
		return -1;
	}
	*child = made;
	return 0;
}

size_t kvx_child_read(pid_t child, int fd, int64_t deadline_ns, char *bytes, size_t size)
{
	size_t used = 0;

	while (used < size) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		int64_t left_ms = (deadline_ns - clock_now_ns()) / NS_PER_MS;
		if (left_ms <= 0 || poll(&ready, 1, (int)left_ms) == 0) {
			kill(child, SIGTERM);
			break;
		}
		ssize_t got = read(fd, bytes + used, size - used);
		if (got == 0 || (got < 0 && errno != EINTR))
			break;
		used += got > 0 ? (size_t)got : 0;
	}
	return used;
}

static bool has_ended(pid_t child)
{
	pid_t collected = waitpid(child, NULL, WNOHANG);

	return collected == child || (collected < 0 && errno == ECHILD);
}

void kvx_child_stop(pid_t child)
{
	if (child <= 0)
		return;
	kill(child, SIGTERM);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

void kvx_child_wait(pid_t child, int timeout_ms)
{
	int64_t deadline_ns = clock_now_ns() + timeout_ms * NS_PER_MS;

	while (child > 0 && !has_ended(child)) {
		if (clock_now_ns() > deadline_ns) {
			kvx_child_stop(child);
			return;
		}
		clock_sleep_until(clock_now_ns() + LOOK_NS);
	}
}
