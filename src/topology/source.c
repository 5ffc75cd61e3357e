/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/source.h"

#include "base/error.h"
#include "topology/matrix.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE_MAGIC "kvxfer-topology"

static int read_all(int fd, struct kvx_content *content)
{
	size_t room = 0;

	for (;;) {
		if (room - content->size < 2) {
			room = room ? 2 * room : 1 << 16;
			char *larger = realloc(content->bytes, room);
			if (!larger)
				return kvx_fail(KVX_E_MEMORY, "topology: no memory to read %s",
						content->path);
			content->bytes = larger;
		}
		ssize_t count = read(fd, content->bytes + content->size, room - content->size - 1);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return kvx_fail(KVX_E_SYSTEM, "topology: cannot read %s: %s", content->path,
					strerror(errno));
		if (count == 0)
			break;
		content->size += (size_t)count;
		if (content->size > KVX_TOPOLOGY_FILE_MAX)
			return kvx_fail(KVX_E_LIMIT,
					"topology: %s is larger than %u MiB; write it without "
					"caches (lstopo --no-caches --no-icaches)",
					content->path, KVX_TOPOLOGY_FILE_MAX >> 20);
	}
	content->bytes[content->size] = 0;
	return 0;
}

static int read_xml(struct kvx_machine *machine, struct kvx_content *content)
{
	struct kvx_xml_root root;
	int error = kvx_xml_check(content, &root);

	if (error)
		return error;
	if (strcmp(root.name, "system") == 0)
		return kvx_nccl_read(machine, content);
	if (strcmp(root.name, "topology") != 0)
		return kvx_fail(
			KVX_E_INVALID,
			"topology: %s holds XML of <%s>; give hwloc's (lstopo FILE.xml), whose "
			"root is <topology>, or NCCL's, whose root is <system>",
			content->path, root.name);
	if (strtol(root.version, NULL, 10) != 2)
		return kvx_fail(
			KVX_E_VERSION,
			"topology: %s is of version %s, and this build reads hwloc's version "
			"2; write it again with lstopo --export-xml-flags v2, or convert it "
			"with hwloc 2's lstopo -i FILE NEW.xml",
			content->path, root.version[0] ? root.version : "1");
	if (!root.has_memory)
		return kvx_fail(KVX_E_INVALID,
				"topology: %s has no NUMA node, which hwloc needs; write it with "
				"lstopo of hwloc 2",
				content->path);
	return kvx_hwloc_read(machine, content);
}

static int read_any(struct kvx_machine *machine, struct kvx_content *content)
{
	const char *at = content->bytes;

	if (strlen(at) != content->size)
		return kvx_fail(KVX_E_INVALID,
				"topology: %s holds binary data; give XML of hwloc or NCCL, or a "
				"matrix file",
				content->path);
	if (strncmp(at, "\xef\xbb\xbf", 3) == 0)
		at += 3; /* some editors mark UTF-8 so */
	while (isspace((unsigned char)*at))
		at++;
	if (*at == '<')
		return read_xml(machine, content);
	if (*at == '#' || strncmp(at, TABLE_MAGIC, strlen(TABLE_MAGIC)) == 0)
		return kvx_table_read(machine, content);
	return kvx_fail(KVX_E_INVALID,
			"topology: %s is neither XML (of hwloc or NCCL) nor a matrix file, which "
			"begins with \"" TABLE_MAGIC " 1\"",
			content->path);
}

int kvx_source_file(struct kvx_machine *machine, const char *path)
{
	struct kvx_content content = {.path = path};
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return kvx_fail(errno == ENOENT ? KVX_E_INVALID : KVX_E_SYSTEM,
				"topology: cannot open %s: %s", path, strerror(errno));
	int error = read_all(fd, &content);
	close(fd);
	if (!error)
		error = read_any(machine, &content);
	free(content.bytes);
	if (error)
		return error;
	kvx_machine_mark_shadows(machine);
	error = machine->has_pairs ? 0 : kvx_machine_settle(machine);
	if (!error)
		kvx_matrix_fill(machine);
	return error;
}

int kvx_source_here(struct kvx_machine *machine, struct hwloc_topology **hwloc)
{
	struct hwloc_topology *opened;
	int error = kvx_hwloc_discover(machine, &opened);

	if (error)
		return error;
	error = kvx_sysfs_complete(machine, "/sys");
	if (!error) {
		kvx_subnets_find(machine);
		kvx_machine_mark_shadows(machine);
		error = kvx_machine_settle(machine);
	}
	if (error) {
		kvx_hwloc_close(opened);
		return error;
	}
	kvx_matrix_fill(machine);
	*hwloc = opened;
	return 0;
}
