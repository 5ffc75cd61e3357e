/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says in files. */
#include "doctor/checkup.h"

#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 512u

/* A path that is too long becomes one that names nothing. */
static void make_path(const struct kvx_checkup *checkup, char path[PATH_MAX], const char *format,
		      va_list arguments)
{
	int length = snprintf(path, PATH_MAX, "%s", checkup->root);

	if (length >= PATH_MAX || vsnprintf(path + length, (size_t)(PATH_MAX - length), format,
					    arguments) >= PATH_MAX - length)
		path[0] = 0;
}

static size_t read_path(const char *path, char *bytes, size_t size)
{
	FILE *file = fopen(path, "re");
	size_t count = file ? fread(bytes, 1, size - 1, file) : 0;

	if (file)
		fclose(file);
	bytes[count] = 0;
	return count;
}

size_t kvx_checkup_read(const struct kvx_checkup *checkup, char *bytes, size_t size,
			const char *format, ...)
{
	char path[PATH_MAX];
	va_list arguments;

	va_start(arguments, format);
	make_path(checkup, path, format, arguments);
	va_end(arguments);
	return read_path(path, bytes, size);
}

bool kvx_checkup_line(const struct kvx_checkup *checkup, char *text, size_t size,
		      const char *format, ...)
{
	char path[PATH_MAX];
	va_list arguments;

	va_start(arguments, format);
	make_path(checkup, path, format, arguments);
	va_end(arguments);
	read_path(path, text, size);
	text[strcspn(text, "\n")] = 0;
	return text[0];
}

bool kvx_checkup_has(const struct kvx_checkup *checkup, const char *format, ...)
{
	char path[PATH_MAX];
	va_list arguments;

	va_start(arguments, format);
	make_path(checkup, path, format, arguments);
	va_end(arguments);
	return access(path, F_OK) == 0;
}

static int is_name(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

uint32_t kvx_checkup_each(const struct kvx_checkup *checkup, const char *folder,
			  void (*visit)(void *context, const char *name), void *context)
{
	struct dirent **names;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s%s", checkup->root, folder);
	int count = scandir(path, &names, is_name, alphasort);
	for (int i = 0; i < count; i++) {
		visit(context, names[i]->d_name);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	return count > 0 ? (uint32_t)count : 0;
}

/* "ffffffff81234560 T dma_buf_get", and a module's name after it. */
static bool is_symbol(const char *line, const char *symbol)
{
	const char *name = strchr(line, ' ');
	size_t length = strlen(symbol);

	name = name ? strchr(name + 1, ' ') : NULL;
	return name && strncmp(name + 1, symbol, length) == 0 &&
	       (name[1 + length] == '\n' || name[1 + length] == '\t');
}

bool kvx_checkup_has_symbol(const struct kvx_checkup *checkup, const char *symbol)
{
	char path[PATH_MAX], line[LINE_MAX_BYTES];
	bool is_found = false;

	snprintf(path, sizeof(path), "%s/proc/kallsyms", checkup->root);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	while (!is_found && fgets(line, sizeof(line), file))
		is_found = is_symbol(line, symbol);
	fclose(file);
	return is_found;
}
