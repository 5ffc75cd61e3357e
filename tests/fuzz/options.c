/* SPDX-License-Identifier: Apache-2.0 */
/* Options of an engine: lines of NAME=VALUE. A value that is taken is given back, and taken again
 * as the same. */
#include "content.h"
#include "target.h"

#include <kvxfer/kvxfer.h>

static void set(struct kvx_options *options, const char *name, const char *value)
{
	char before[512], after[512];
	const char *shown = kvx_options_get(options, name);

	snprintf(before, sizeof(before), "%s", shown ? shown : "");
	if (kvx_options_set(options, name, value)) {
		fuzz_require(kvx_error_text()[0], "an error without a text");
		shown = kvx_options_get(options, name);
		fuzz_require(strcmp(before, shown ? shown : "") == 0, "%s=%s changed it", name,
			     value);
		return;
	}
	snprintf(after, sizeof(after), "%s", kvx_options_get(options, name));
	fuzz_require(kvx_options_set(options, name, after) == 0, "%s", kvx_error_text());
	fuzz_require(strcmp(kvx_options_get(options, name), after) == 0, "%s=%s", name, after);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	char *text = fuzz_text(bytes, size), *rest = text, *line;
	struct kvx_options *options;

	fuzz_require(kvx_options_new(&options) == 0, "%s", kvx_error_text());
	while ((line = strsep(&rest, "\n"))) {
		char *equals = strchr(line, '=');
		if (!equals)
			continue;
		*equals = 0;
		set(options, line, equals + 1);
	}
	kvx_options_free(options);
	free(text);
	return 0;
}

/* A line for each option, with its default. */
void fuzz_give_seeds(fuzz_take *take)
{
	struct kvx_option_info info;
	char text[8192];
	size_t length = 0;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%s=%s\n",
					   info.name, info.initial);
	take("defaults", text, length);
	take("bytes", "unit_bytes=64K\nstaging_bytes=1G\ntcp_buffer=3m", 46);
	take("wrong", "unit_bytes=64T\nprogress=threa\nloop_copy=maybe\nheartbeat_ms=9\nnone=1",
	     68);
}
