/* SPDX-License-Identifier: Apache-2.0 */
/* The clock: what reading it costs, and whether two nodes' logs can be laid side by side. */
#include "base/clock.h"

#include "doctor/checkup.h"

#include <string.h>
#include <sys/timex.h>

#define TEXT_MAX 255u
#define READS 1000
#define ROUNDS 5
#define SLOW_NS 500 /* of one reading: a system call and a device, in place of a register */

/* The best of some rounds: others are those in which somebody else ran. */
static int64_t reading_ns(void)
{
	int64_t best = KVX_NEVER_NS;

	for (int round = 0; round < ROUNDS; round++) {
		int64_t begin = kvx_now_ns();
		for (int i = 0; i < READS; i++)
			kvx_now_ns();
		int64_t took = (kvx_now_ns() - begin) / READS;
		if (took < best)
			best = took;
	}
	return best;
}

static void check_source(struct kvx_checkup *checkup)
{
	char source[TEXT_MAX + 1];
	int64_t cost_ns = reading_ns();

	if (!kvx_checkup_line(checkup, source, sizeof(source),
			      "/sys/devices/system/clocksource/clocksource0/current_clocksource"))
		strcpy(source, "not known");
	bool is_device = strcmp(source, "hpet") == 0 || strcmp(source, "acpi_pm") == 0 ||
			 strcmp(source, "jiffies") == 0;
	if (is_device || cost_ns > SLOW_NS)
		kvx_checkup_tell(
			checkup, KVX_SEVERITY_WARNING, "clock",
			"find in the kernel's log why the processor's counter is not used "
			"(tsc marked unstable); firmware and clocksource=tsc are what helps",
			"source %s: a reading takes %lld ns, and engines read it often", source,
			(long long)cost_ns);
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "clock", "",
				 "source %s: a reading takes %lld ns", source, (long long)cost_ns);
}

/* Deadlines and leases count on each node's own monotonic clock. */
static void check_synchronisation(struct kvx_checkup *checkup)
{
	struct timex state = {0};
	int status = adjtimex(&state);

	if (status < 0 || status == TIME_ERROR || (state.status & STA_UNSYNC))
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "clock",
				 "run chrony or another NTP client, so that logs and figures of "
				 "nodes can be compared; transfers do not need it",
				 "not synchronised with others, as the kernel knows");
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "clock", "",
				 "synchronised; at most %ld us off", state.maxerror);
}

void kvx_check_clock(struct kvx_checkup *checkup)
{
	check_source(checkup);
	check_synchronisation(checkup);
}
