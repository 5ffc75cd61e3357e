/* SPDX-License-Identifier: Apache-2.0 */
#include "support/secret_file.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_text(int fd, const char *text)
{
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

void secret_file_make(char path[SECRET_FILE_PATH], const char *text)
{
	strcpy(path, "/tmp/kvxfer-secret-XXXXXX");
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	write_text(fd, text);
}

void secret_file_change(const char *path, const char *text)
{
	char next[SECRET_FILE_PATH];

	secret_file_make(next, text);
	cr_assert_eq(rename(next, path), 0);
}
