/* SPDX-License-Identifier: Apache-2.0 */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

/* The rest of the first line of a file that begins with `name`, without the colon. */
static void find_line(const char *path, const char *name, char *value, size_t size)
{
	char line[256];
	FILE *file = fopen(path, "re");

	while (file && fgets(line, sizeof(line), file)) {
		const char *colon = strchr(line, ':');
		if (!colon || strncmp(line, name, strlen(name)) != 0)
			continue;
		snprintf(value, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
		value[strcspn(value, "\n")] = 0;
		break;
	}
	if (file)
		fclose(file);
}

void kvx_machine_describe(char *text, size_t size)
{
	char model[128] = "unknown processor";
	struct utsname names;

	find_line("/proc/cpuinfo", "model name", model, sizeof(model));
	if (uname(&names))
		strcpy(names.release, "unknown");
	snprintf(text, size, "%s, %ld cores, Linux %s", model, sysconf(_SC_NPROCESSORS_ONLN),
		 names.release);
}

uint64_t kvx_machine_available_bytes(void)
{
	char value[64] = "";

	find_line("/proc/meminfo", "MemAvailable", value, sizeof(value));
	/* In KiB, whatever unit stands behind it. */
	return (uint64_t)strtoull(value, NULL, 10) << 10;
}

double kvx_machine_cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}
