/* SPDX-License-Identifier: Apache-2.0 */
#include "local.h"

#include "child.h"
#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define END_MS 10000

static void *receive(void *argument)
{
	struct kvx_local *local = argument;

	/* What it has to say went to the sender already. */
	kvx_receiver_serve(local->other_fd, &local->policy);
	shutdown(local->other_fd, SHUT_RDWR);
	return NULL;
}

static int start_thread(struct kvx_local *local, const struct kvx_settings *settings)
{
	local->policy = (struct kvx_receiver_policy){.trusted = true, .verbose = settings->verbose};
	int error = pthread_create(&local->thread, NULL, receive, local);
	return error ? kvx_failure_set("local: cannot start a thread: %s", strerror(error)) : 0;
}

static int start_process(struct kvx_local *local, const struct kvx_settings *settings)
{
	char fd[16];
	char *const arguments[] = {"/proc/self/exe",
				   "serve",
				   "--inherited-fd",
				   fd,
				   settings->verbose ? "--verbose" : NULL,
				   NULL};

	snprintf(fd, sizeof(fd), "%d", local->other_fd);
	fcntl(local->other_fd, F_SETFD, 0);
	if (kvx_child_start(arguments, KVX_CHILD_INHERIT, KVX_CHILD_INHERIT, &local->child))
		return -1;
	close(local->other_fd);
	local->other_fd = -1;
	/* Where only relatives may read a process's memory, a child may not read its parent's. */
	if (settings->plain_memory)
		prctl(PR_SET_PTRACER, local->child);
	return 0;
}

int kvx_local_start(struct kvx_local *local, const struct kvx_settings *settings)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return kvx_failure_set("local: no socket pair: %s", strerror(errno));
	*local = (struct kvx_local){.fd = ends[0], .other_fd = ends[1]};
	int error = settings->one_process ? start_thread(local, settings)
					  : start_process(local, settings);
	if (!error)
		return 0;
	close(ends[0]);
	close(ends[1]);
	return -1;
}

void kvx_local_stop(struct kvx_local *local)
{
	close(local->fd);
	if (local->child)
		kvx_child_wait(local->child, END_MS);
	else
		pthread_join(local->thread, NULL);
	if (local->other_fd >= 0)
		close(local->other_fd);
}
