/* SPDX-License-Identifier: Apache-2.0 */
#include "payload.h"

#include "failure.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum kvx_payload_kind kvx_payload_kind(const char *text)
{
	if (!text || strcmp(text, "pattern") == 0)
		return KVX_PAYLOAD_PATTERN;
	return strcmp(text, "zero") == 0 ? KVX_PAYLOAD_ZERO : KVX_PAYLOAD_FILE;
}

static int map_file(struct kvx_payload *payload, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return kvx_failure_set("payload %s: cannot open: %s", path, strerror(errno));
	if (fstat(fd, &status) || !S_ISREG(status.st_mode) || status.st_size == 0) {
		close(fd);
		return kvx_failure_set("payload %s: not a file with bytes in it", path);
	}
	void *mapped = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (mapped == MAP_FAILED)
		return kvx_failure_set("payload %s: cannot map: %s", path, strerror(errno));
	payload->file = mapped;
	payload->file_bytes = (size_t)status.st_size;
	return 0;
}

int kvx_payload_open(struct kvx_payload *payload, const char *text)
{
	*payload = (struct kvx_payload){.kind = kvx_payload_kind(text)};
	return payload->kind == KVX_PAYLOAD_FILE ? map_file(payload, text) : 0;
}

void kvx_payload_close(struct kvx_payload *payload)
{
	if (payload->file)
		munmap((void *)payload->file, payload->file_bytes);
	*payload = (struct kvx_payload){0};
}

static void fill_from_file(const struct kvx_payload *payload, uint64_t position, char *bytes,
			   size_t size)
{
	while (size) {
		size_t at = position % payload->file_bytes;
		size_t length = payload->file_bytes - at < size ? payload->file_bytes - at : size;
		memcpy(bytes, payload->file + at, length);
		bytes += length;
		position += length;
		size -= length;
	}
}

void kvx_payload_fill(const struct kvx_payload *payload, const struct kvx_pattern_place *place,
		      uint64_t position, void *bytes, size_t size)
{
	switch (payload->kind) {
	case KVX_PAYLOAD_PATTERN:
		kvx_pattern_fill(kvx_pattern_key(place), bytes, size);
		return;
	case KVX_PAYLOAD_ZERO:
		memset(bytes, 0, size);
		return;
	case KVX_PAYLOAD_FILE:
		fill_from_file(payload, position, bytes, size);
		return;
	}
}

static uint8_t plain_byte(const struct kvx_payload *payload, uint64_t position)
{
	if (payload->kind == KVX_PAYLOAD_ZERO)
		return 0;
	return (uint8_t)payload->file[position % payload->file_bytes];
}

/* Zeros and file bytes; not the default, so byte by byte is good enough. */
static size_t verify_plain(const struct kvx_payload *payload, uint64_t position,
			   const uint8_t *bytes, size_t size, size_t *first)
{
	size_t wrong = 0;

	for (size_t i = 0; i < size; i++) {
		if (bytes[i] == plain_byte(payload, position + i))
			continue;
		if (wrong++ == 0)
			*first = i;
	}
	return wrong;
}

size_t kvx_payload_verify(const struct kvx_payload *payload, const struct kvx_pattern_place *place,
			  uint64_t position, const void *bytes, size_t size, size_t *first,
			  uint8_t *expected)
{
	size_t wrong;

	if (payload->kind != KVX_PAYLOAD_PATTERN) {
		wrong = verify_plain(payload, position, bytes, size, first);
		if (wrong)
			*expected = plain_byte(payload, position + *first);
		return wrong;
	}
	uint64_t key = kvx_pattern_key(place);
	wrong = kvx_pattern_verify(key, bytes, size, first);
	if (wrong)
		*expected = kvx_pattern_byte(key, *first);
	return wrong;
}
