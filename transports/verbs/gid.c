/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* Best first. */
enum reach { IPV4, GLOBAL, UNIQUE_LOCAL, LINK_LOCAL, LOOPBACK, UNUSABLE };

static const char *const reach_texts[] = {
	[IPV4] = "IPv4 address",
	[GLOBAL] = "global address",
	[UNIQUE_LOCAL] = "unique-local address",
	[LINK_LOCAL] = "link-local address",
	[LOOPBACK] = "loopback address",
	[UNUSABLE] = "no port's address",
};

static bool is_ipv4(const union ibv_gid *gid)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(gid->raw, mapped, sizeof(mapped)) == 0;
}

static enum reach reach_ipv4(const uint8_t address[4])
{
	if (address[0] == 0 || address[0] >= 224)
		return UNUSABLE;
	if (address[0] == 127)
		return LOOPBACK;
	return address[0] == 169 && address[1] == 254 ? LINK_LOCAL : IPV4;
}

static enum reach reach_ipv6(const uint8_t address[16])
{
	static const uint8_t loopback[16] = {[15] = 1}, none[16];

	if (address[0] == 0xff || memcmp(address, none, sizeof(none)) == 0)
		return UNUSABLE;
	if (memcmp(address, loopback, sizeof(loopback)) == 0)
		return LOOPBACK;
	if (address[0] == 0xfe && (address[1] & 0xc0) == 0x80)
		return LINK_LOCAL;
	return (address[0] & 0xfe) == 0xfc ? UNIQUE_LOCAL : GLOBAL;
}

static enum reach reach_of(const union ibv_gid *gid)
{
	return is_ipv4(gid) ? reach_ipv4(gid->raw + 12) : reach_ipv6(gid->raw);
}

/* InfiniBand's GIDs all are made from the port's GUID; the subnet manager, not their form, says
 * where they lead. The lower the better. */
static uint64_t rank(const struct kvx_verbs_gid *row)
{
	uint64_t type = row->type == KVX_VERBS_GID_ROCE_V2   ? 0
			: row->type == KVX_VERBS_GID_ROCE_V1 ? 1
							     : 2;
	uint64_t place =
		row->type == KVX_VERBS_GID_IB ? 0 : (uint64_t)reach_of(&row->gid) << 1 | !row->own;

	return type << 48 | place << 32 | row->index;
}

static void explain(const struct kvx_verbs_gid *row, char *text, size_t size)
{
	if (row->type == KVX_VERBS_GID_IB)
		snprintf(text, size, "the port's first");
	else
		snprintf(text, size, "%s%s%s", reach_texts[reach_of(&row->gid)],
			 row->own ? " of the port's own interface" : ", in use on no interface",
			 row->type == KVX_VERBS_GID_ROCE_V1 ? "; there is no RoCE v2" : "");
}

static int choose_by_rule(const struct kvx_verbs_gid *table, uint32_t count, char *text,
			  size_t size)
{
	int best = -1;

	for (uint32_t i = 0; i < count; i++)
		if (reach_of(&table[i].gid) != UNUSABLE &&
		    (best < 0 || rank(&table[i]) < rank(&table[best])))
			best = (int)i;
	if (best >= 0)
		explain(&table[best], text, size);
	else
		snprintf(text, size, "it has no GID; give its interface an address");
	return best;
}

/* "there is no GID 9; there are 0, 1, 2" */
static void explain_missing(const struct kvx_verbs_gid *table, uint32_t count, int wanted,
			    char *text, size_t size)
{
	size_t length = (size_t)snprintf(text, size, "there is no GID %d; there are", wanted);
	const char *separator = " ";

	for (uint32_t i = 0; i < count && length < size; i++) {
		if (reach_of(&table[i].gid) == UNUSABLE)
			continue;
		length += (size_t)snprintf(text + length, size - length, "%s%u", separator,
					   table[i].index);
		separator = ", ";
	}
	if (separator[0] == ' ' && length < size)
		snprintf(text + length, size - length, " none");
}

int kvx_verbs_gid_choose(const struct kvx_verbs_gid *table, uint32_t count, int wanted, char *text,
			 size_t size)
{
	if (wanted < 0)
		return choose_by_rule(table, count, text, size);
	for (uint32_t i = 0; i < count; i++)
		if (table[i].index == (uint32_t)wanted && reach_of(&table[i].gid) != UNUSABLE) {
			snprintf(text, size, "option verbs_gid_index");
			return (int)i;
		}
	explain_missing(table, count, wanted, text, size);
	return -1;
}

void kvx_verbs_gid_format(const union ibv_gid *gid, char *text, size_t size)
{
	bool ipv4 = is_ipv4(gid);

	if (!inet_ntop(ipv4 ? AF_INET : AF_INET6, gid->raw + (ipv4 ? 12 : 0), text,
		       (socklen_t)size))
		snprintf(text, size, "?");
}
