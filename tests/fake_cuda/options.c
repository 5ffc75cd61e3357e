/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define X(name, value) #name,
	FAKE_CUDA_OPTIONS(X)
#undef X
};

static _Atomic uint64_t values[] = {
#define X(name, value) (value),
	FAKE_CUDA_OPTIONS(X)
#undef X
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

void fake_die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("fake_cuda: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	abort();
}

static enum fake_option find(const char *name, size_t length)
{
	for (unsigned i = 0; i < FAKE_OPTIONS; i++)
		if (strlen(names[i]) == length && strncmp(names[i], name, length) == 0)
			return (enum fake_option)i;
	fake_die("no option %.*s", (int)length, name);
}

static void read_environment(void)
{
	const char *text = getenv("FAKE_CUDA_OPTIONS");

	while (text && *text) {
		size_t length = strcspn(text, "=");
		char *end;
		if (text[length] != '=')
			fake_die("FAKE_CUDA_OPTIONS: no value in %s", text);
		values[find(text, length)] = strtoull(text + length + 1, &end, 0);
		if (*end && *end != ',')
			fake_die("FAKE_CUDA_OPTIONS: not a number: %s", text);
		text = *end ? end + 1 : end;
	}
}

uint64_t fake_option(enum fake_option option)
{
	pthread_once(&once, read_environment);
	return values[option];
}

void fake_option_store(enum fake_option option, uint64_t value)
{
	pthread_once(&once, read_environment);
	values[option] = value;
}

EXPORT void fake_cuda_set(const char *option, uint64_t value)
{
	fake_option_store(find(option, strlen(option)), value);
}

EXPORT uint64_t fake_cuda_get(const char *option)
{
	return fake_option(find(option, strlen(option)));
}
