/* SPDX-License-Identifier: Apache-2.0 */
#include "made_up.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[] = "/tmp/kvxfer-doctor-XXXXXX";

struct kvx_checkup checkup;
struct kvx_options *options;
struct told_finding told_findings[TOLD_MAX];
uint32_t told_count;

void take_finding(void *context, const struct kvx_finding *finding)
{
	(void)context;
	cr_assert(told_count < TOLD_MAX);
	cr_assert(finding->area[0] && finding->found[0]);
	cr_assert_eq(finding->severity == KVX_SEVERITY_OK, finding->action[0] == 0,
		     "%s: \"%s\" -> \"%s\"", finding->area, finding->found, finding->action);
	struct told_finding *mine = &told_findings[told_count++];
	mine->severity = finding->severity;
	snprintf(mine->area, sizeof(mine->area), "%s", finding->area);
	snprintf(mine->found, sizeof(mine->found), "%s", finding->found);
	snprintf(mine->action, sizeof(mine->action), "%s", finding->action);
}

void made_up_set_up(void)
{
	cr_assert(mkdtemp(root));
	setenv("FAKE_CUDA_OPTIONS", "absent=1", true);
	cr_assert_eq(kvx_options_new(&options), 0);
	checkup = (struct kvx_checkup){.root = root, .options = options, .function = take_finding};
}

void made_up_tear_down(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -r %s", root);
	cr_assert_eq(system(command), 0);
	kvx_options_free(options);
}

static void make_way(char *path)
{
	for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
		*at = 0;
		cr_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
		*at = '/';
	}
}

static void put_at(const void *bytes, size_t count, const char *format, va_list arguments)
{
	char path[PATH_MAX], name[PATH_MAX / 2];

	vsnprintf(name, sizeof(name), format, arguments);
	snprintf(path, sizeof(path), "%s/%s", root, name);
	make_way(path);
	FILE *file = fopen(path, "we");
	cr_assert(file, "%s", path);
	cr_assert_eq(fwrite(bytes, 1, count, file), count);
	fclose(file);
}

void put(const char *content, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	put_at(content, strlen(content), format, arguments);
	va_end(arguments);
}

void put_bytes(const void *bytes, size_t count, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	put_at(bytes, count, format, arguments);
	va_end(arguments);
}

const struct told_finding *expect_told(enum kvx_severity severity, const char *area,
				       const char *text)
{
	for (uint32_t i = 0; i < told_count; i++)
		if (told_findings[i].severity == severity &&
		    strcmp(told_findings[i].area, area) == 0 &&
		    strstr(told_findings[i].found, text))
			return &told_findings[i];
	for (uint32_t i = 0; i < told_count; i++)
		fprintf(stderr, "%s %s: %s\n", kvx_severity_name(told_findings[i].severity),
			told_findings[i].area, told_findings[i].found);
	cr_assert_fail("no %s of %s with \"%s\"", kvx_severity_name(severity), area, text);
	return NULL;
}

void expect_at_most(enum kvx_severity severity, const char *area)
{
	for (uint32_t i = 0; i < told_count; i++)
		if (strcmp(told_findings[i].area, area) == 0)
			cr_assert(told_findings[i].severity <= severity, "%s: %s", area,
				  told_findings[i].found);
}
