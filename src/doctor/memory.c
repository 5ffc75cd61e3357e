/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: how much may be locked, huge pages, and what moves pages between NUMA nodes. */
#include "doctor/checkup.h"
#include "verbs/doctor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define TEXT_MAX 255u
#define TRIED_MIN (UINT64_C(64) << 10)
#define MEMINFO_MAX 8191u

static const char unlimited[] =
	"allow all: ulimit -l unlimited, memlock in /etc/security/limits.conf, "
	"LimitMEMLOCK=infinity (systemd), --ulimit memlock=-1 (containers)";

/* ----------------------------------------------------------------------------- locked memory */

static void format_bytes(uint64_t bytes, char *text, size_t size)
{
	if (bytes >> 30)
		snprintf(text, size, "%.4g GiB", (double)bytes / (double)(1u << 30));
	else if (bytes >> 20)
		snprintf(text, size, "%.4g MiB", (double)bytes / (double)(1u << 20));
	else
		snprintf(text, size, "%llu KiB", (unsigned long long)(bytes >> 10));
}

/* The largest finite limit that counts, or "unlimited". */
static bool limit_format(char *text, size_t size)
{
	struct rlimit limit;

	snprintf(text, size, "unlimited");
	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return false;
	format_bytes(limit.rlim_cur, text, size);
	return true;
}

/* A process that the limit does not bind has locked more than it. */
static bool is_bound(uint64_t largest)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	       limit.rlim_cur >= largest;
}

void kvx_check_lock_limit(struct kvx_checkup *checkup, const char *who, uint64_t largest, int error)
{
	bool matters = checkup->device_count > 0;
	char tried[32], limit[32], next[32];
	bool is_finite = limit_format(limit, sizeof(limit));

	format_bytes(largest, tried, sizeof(tried));
	format_bytes(largest ? 2 * largest : TRIED_MIN, next, sizeof(next));
	if (error)
		kvx_checkup_tell(
			checkup, matters ? KVX_SEVERITY_ERROR : KVX_SEVERITY_NOTE, "locked memory",
			matters || is_finite ? unlimited
					     : "nothing, as long as there is no RDMA device",
			"%s: %s%s could be locked, and %s not: %s; the limit is %s", who,
			largest ? "" : "not even ", largest ? tried : next, next, strerror(error),
			limit);
	else if (is_bound(largest))
		kvx_checkup_tell(checkup, matters ? KVX_SEVERITY_WARNING : KVX_SEVERITY_NOTE,
				 "locked memory", unlimited,
				 "%s: %s could be locked; the limit is %s, and all pools together "
				 "have to fit it",
				 who, tried, limit);
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "locked memory", "",
				 "%s: %s could be locked; the limit is %s%s", who, tried, limit,
				 is_finite ? ", which does not bind this user" : "");
}

/* errno, or 0. */
static int try_lock(void *memory, uint64_t bytes)
{
	if (mlock(memory, bytes) < 0)
		return errno;
	munlock(memory, bytes);
	return 0;
}

void kvx_check_locked_memory(struct kvx_checkup *checkup)
{
	uint64_t largest = 0;
	int error = 0;

	if (checkup->device_count)
		return; /* each device has tried it in earnest */
	void *memory = mmap(NULL, KVX_VERBS_TRIED_MAX, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		kvx_check_lock_limit(checkup, "mlock", 0, errno);
		return;
	}
	for (uint64_t bytes = KVX_VERBS_TRIED_MAX; bytes >= TRIED_MIN && !largest; bytes /= 2) {
		int failed = try_lock(memory, bytes);
		if (failed)
			error = failed;
		else
			largest = bytes;
	}
	munmap(memory, KVX_VERBS_TRIED_MAX);
	kvx_check_lock_limit(checkup, "mlock", largest, error);
}

/* -------------------------------------------------------------------------------- huge pages */

static unsigned long meminfo(const char *content, const char *name)
{
	const char *at = strstr(content, name);

	return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static bool try_huge_page(unsigned long bytes)
{
	void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (page == MAP_FAILED)
		return false;
	munmap(page, bytes);
	return true;
}

/* Registration walks pages: fewer, larger ones make it faster, and the NIC's tables smaller. */
void kvx_check_huge_pages(struct kvx_checkup *checkup)
{
	char thp[TEXT_MAX + 1], content[MEMINFO_MAX + 1];
	unsigned long free_pages, size_kib;

	kvx_checkup_line(checkup, thp, sizeof(thp), "/sys/kernel/mm/transparent_hugepage/enabled");
	kvx_checkup_read(checkup, content, sizeof(content), "/proc/meminfo");
	free_pages = meminfo(content, "HugePages_Free:");
	size_kib = meminfo(content, "Hugepagesize:");
	bool is_reserved = free_pages && size_kib && try_huge_page(size_kib << 10);
	bool is_transparent = strstr(thp, "[always]") || strstr(thp, "[madvise]");

	if (is_reserved || is_transparent)
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "huge pages", "",
				 "transparent ones: %s; %lu of %lu KiB are free, and %s",
				 thp[0] ? thp : "not known", free_pages, size_kib,
				 is_reserved ? "one could be mapped" : "none could be mapped");
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "huge pages",
				 "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, or "
				 "reserve some (sysctl vm.nr_hugepages): large pools are then "
				 "registered faster",
				 "transparent ones are off, and none could be mapped");
}

/* ------------------------------------------------------------------------------ NUMA balancing */

void kvx_check_numa(struct kvx_checkup *checkup)
{
	char nodes[TEXT_MAX + 1], balancing[TEXT_MAX + 1];
	bool has_nodes = kvx_checkup_line(checkup, nodes, sizeof(nodes),
					  "/sys/devices/system/node/online") &&
			 strpbrk(nodes, ",-");

	if (has_nodes &&
	    kvx_checkup_line(checkup, balancing, sizeof(balancing),
			     "/proc/sys/kernel/numa_balancing") &&
	    strcmp(balancing, "0") != 0)
		kvx_checkup_tell(
			checkup, KVX_SEVERITY_WARNING, "numa balancing",
			"sysctl kernel.numa_balancing=0",
			"the kernel moves pages between NUMA nodes %s while they are used: "
			"faults and late copies in pools that are not registered with a NIC",
			nodes);
	else if (has_nodes)
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "numa balancing", "",
				 "off, on NUMA nodes %s", nodes);
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "numa balancing", "",
				 "nothing to balance: one NUMA node");
}
