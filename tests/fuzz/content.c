/* SPDX-License-Identifier: Apache-2.0 */
#include "content.h"

#include "target.h"

#include <sys/mman.h>
#include <unistd.h>

const char *fuzz_file(const void *bytes, size_t size)
{
	static char path[64];
	static int fd = -1;

	if (fd < 0)
		fd = memfd_create("fuzz-input", MFD_CLOEXEC);
	fuzz_require(fd >= 0 && ftruncate(fd, 0) == 0 &&
			     pwrite(fd, bytes, size, 0) == (ssize_t)size,
		     "no memory for %zu bytes", size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return path;
}

char *fuzz_text(const void *bytes, size_t size)
{
	char *text = malloc(size + 1);

	fuzz_require(text, "no memory for %zu bytes", size);
	memcpy(text, bytes, size);
	text[size] = 0;
	return text;
}
