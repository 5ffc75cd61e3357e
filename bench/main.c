/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-bench: how fast and how soon kvxfer moves a paged KV cache. See docs/bench.md. */
#include "address.h"
#include "local.h"
#include "options.h"
#include "report.h"
#include "serve.h"
#include "worker.h"
#include "workloads.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void interrupt(int number)
{
	(void)number;
	kvx_interrupted = 1;
}

/* The first signal stops the run, which then reports; the second ends the program. */
static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static int run_workload(struct kvx_drive *drive)
{
	static int (*const workloads[])(struct kvx_drive *) = {
		kvx_workload_blocks, kvx_workload_stream, kvx_workload_latency};
	int error = workloads[drive->settings->workload](drive);

	kvx_progress_finish(&drive->progress);
	return error;
}

static bool all_is_well(const struct kvx_drive *drive)
{
	return drive->results.requests && !drive->results.errors && !kvx_interrupted &&
	       strcmp(kvx_report_verify(drive), "failed") != 0;
}

static int complain(void)
{
	fprintf(stderr, "kvxfer-bench: %s\n", kvx_failure_text());
	return 1;
}

/* The sender's role, over a connected socket. Returns the exit status. */
static int drive_session(const struct kvx_settings *settings, int fd)
{
	struct kvx_session session;
	/* Its histograms are too large for a stack. */
	struct kvx_drive *drive = malloc(sizeof(*drive));

	if (!drive || kvx_session_open(&session, fd, settings->command == KVX_COMMAND_RUN)) {
		free(drive);
		return complain();
	}
	kvx_drive_init(drive, settings, &session);
	int status = 0;
	if (run_workload(drive)) {
		status = complain();
	} else {
		kvx_report_summary(drive);
		status = kvx_report_json(drive) ? complain() : all_is_well(drive) ? 0 : 1;
	}
	kvx_drive_finish(drive);
	kvx_session_close(&session);
	free(drive);
	return status;
}

static int run_local(const struct kvx_settings *settings)
{
	struct kvx_local local;

	catch_signals();
	if (kvx_local_start(&local, settings))
		return complain();
	int status = drive_session(settings, local.fd);
	kvx_local_stop(&local);
	return status;
}

static int run_remote(const struct kvx_settings *settings)
{
	int fd = kvx_address_connect(settings->peer);

	if (fd < 0)
		return complain();
	catch_signals(); /* not earlier: an interrupt ends the attempts to connect */
	int status = drive_session(settings, fd);
	close(fd);
	return status;
}

int main(int argc, char **argv)
{
	struct kvx_settings settings;

	kvx_options_parse_arguments(argc, argv, &settings);
	/* Due times are to be kept to the microsecond. */
	prctl(PR_SET_TIMERSLACK, 1000);
	if (settings.control)
		return kvx_worker_run(&settings);
	if (settings.command == KVX_COMMAND_SERVE)
		return kvx_serve_run(&settings);
	return settings.command == KVX_COMMAND_LOCAL ? run_local(&settings) : run_remote(&settings);
}
