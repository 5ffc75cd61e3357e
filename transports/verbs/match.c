/* SPDX-License-Identifier: Apache-2.0 */
#include "wire.h"

#include <string.h>

enum reach { NONE, ROUTED, NEIGHBOURS };

static bool is_ipv4(const union ibv_gid *gid)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(gid->raw, mapped, sizeof(mapped)) == 0;
}

static bool is_link_local(const union ibv_gid *gid)
{
	return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

static bool same_bits(const uint8_t *a, const uint8_t *b, uint32_t bits)
{
	if (memcmp(a, b, bits / 8) != 0)
		return false;
	return bits % 8 == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - bits % 8)) == 0;
}

static enum reach reach_roce(const struct kvx_verbs_remote_port *a,
			     const struct kvx_verbs_remote_port *b)
{
	uint32_t base_bits = is_ipv4(&a->gid) ? 96 : 0;
	uint32_t bits = a->prefix_bits > b->prefix_bits ? a->prefix_bits : b->prefix_bits;

	if (is_ipv4(&a->gid) != is_ipv4(&b->gid) ||
	    is_link_local(&a->gid) != is_link_local(&b->gid))
		return NONE;
	if (is_link_local(&a->gid)) /* not routed: the same network, or none */
		return NEIGHBOURS;
	if (bits && base_bits + bits <= 128 && same_bits(a->gid.raw, b->gid.raw, base_bits + bits))
		return NEIGHBOURS;
	return ROUTED;
}

static enum reach reach(const struct kvx_verbs_remote_port *a,
			const struct kvx_verbs_remote_port *b)
{
	if (a->link_layer != b->link_layer)
		return NONE;
	if (a->link_layer == IBV_LINK_LAYER_ETHERNET)
		return reach_roce(a, b);
	return memcmp(a->gid.raw, b->gid.raw, 8) == 0 ? NEIGHBOURS : NONE; /* the subnet prefix */
}

struct matching {
	const struct kvx_verbs_remote_port *local, *remote;
	uint32_t local_count, remote_count;
	enum reach best;
	uint32_t local_uses[KVX_VERBS_PORTS_MAX], remote_uses[KVX_VERBS_PORTS_MAX];
	struct kvx_verbs_match *pairs;
	uint32_t count;
};

static void add(struct matching *matching, uint32_t local, uint32_t remote)
{
	matching->pairs[matching->count++] = (struct kvx_verbs_match){local, remote};
	matching->local_uses[local]++;
	matching->remote_uses[remote]++;
}

static bool fits(const struct matching *matching, uint32_t local, uint32_t remote)
{
	return reach(&matching->local[local], &matching->remote[remote]) == matching->best;
}

/* The remote port least used so far; of several the one with the same place in its list. */
static void match_local(struct matching *matching, uint32_t local)
{
	uint32_t found = UINT32_MAX;

	for (uint32_t i = 0; i < matching->remote_count; i++) {
		uint32_t remote = (local + i) % matching->remote_count;
		if (fits(matching, local, remote) &&
		    (found == UINT32_MAX ||
		     matching->remote_uses[remote] < matching->remote_uses[found]))
			found = remote;
	}
	if (found != UINT32_MAX)
		add(matching, local, found);
}

static void match_remote(struct matching *matching, uint32_t remote)
{
	uint32_t found = UINT32_MAX;

	for (uint32_t local = 0; local < matching->local_count; local++)
		if (fits(matching, local, remote) &&
		    (found == UINT32_MAX ||
		     matching->local_uses[local] < matching->local_uses[found]))
			found = local;
	if (found != UINT32_MAX)
		add(matching, found, remote);
}

static enum reach best_reach(const struct matching *matching)
{
	enum reach best = NONE;

	for (uint32_t i = 0; i < matching->local_count; i++)
		for (uint32_t j = 0; j < matching->remote_count; j++)
			if (reach(&matching->local[i], &matching->remote[j]) > best)
				best = reach(&matching->local[i], &matching->remote[j]);
	return best;
}

uint32_t kvx_verbs_match(const struct kvx_verbs_remote_port *local, uint32_t local_count,
			 const struct kvx_verbs_remote_port *remote, uint32_t remote_count,
			 struct kvx_verbs_match *pairs)
{
	struct matching matching = {.local = local,
				    .remote = remote,
				    .local_count = local_count,
				    .remote_count = remote_count,
				    .pairs = pairs};

	matching.best = best_reach(&matching);
	if (matching.best == NONE)
		return 0;
	for (uint32_t i = 0; i < local_count; i++)
		match_local(&matching, i);
	for (uint32_t i = 0; i < remote_count && matching.count < KVX_VERBS_PORTS_MAX; i++)
		if (!matching.remote_uses[i])
			match_remote(&matching, i);
	return matching.count;
}
