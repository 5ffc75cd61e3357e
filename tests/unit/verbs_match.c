/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs/wire.h"

#include "support/chance.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define ROCE IBV_LINK_LAYER_ETHERNET
#define IB IBV_LINK_LAYER_INFINIBAND
#define PORTS KVX_VERBS_PORTS_MAX

static struct kvx_verbs_remote_port roce(const char *address, uint8_t prefix_bits)
{
	struct kvx_verbs_remote_port port = {.link_layer = ROCE,
					     .prefix_bits = prefix_bits,
					     .gid.raw = {[10] = 0xff, [11] = 0xff}};

	if (inet_pton(AF_INET, address, port.gid.raw + 12) != 1)
		cr_assert_eq(inet_pton(AF_INET6, address, port.gid.raw), 1, "%s", address);
	return port;
}

static struct kvx_verbs_remote_port infiniband(uint8_t subnet)
{
	return (struct kvx_verbs_remote_port){.link_layer = IB, .gid.raw = {0xfe, 0x80, subnet}};
}

static void expect_pairs(const struct kvx_verbs_match *got, uint32_t count,
			 const struct kvx_verbs_match *wanted, uint32_t wanted_count)
{
	cr_assert_eq(count, wanted_count, "%u pairs, expected %u", count, wanted_count);
	for (uint32_t i = 0; i < count; i++)
		cr_assert(got[i].local == wanted[i].local && got[i].remote == wanted[i].remote,
			  "pair %u is %u-%u", i, got[i].local, got[i].remote);
}

Test(verbs_match, ports_of_one_network_are_pairs_in_any_order)
{
	struct kvx_verbs_remote_port local[] = {roce("10.0.0.1", 24), roce("10.0.1.1", 24)};
	struct kvx_verbs_remote_port remote[] = {roce("10.0.1.2", 24), roce("10.0.0.2", 24)};
	struct kvx_verbs_match pairs[PORTS], wanted[] = {{0, 1}, {1, 0}};

	expect_pairs(pairs, kvx_verbs_match(local, 2, remote, 2, pairs), wanted, 2);
}

Test(verbs_match, without_a_common_network_addresses_are_routed)
{
	struct kvx_verbs_remote_port local[] = {roce("10.0.0.1", 24), roce("10.0.1.1", 24)};
	struct kvx_verbs_remote_port remote[] = {roce("10.9.0.1", 24), roce("10.9.1.1", 0)};
	struct kvx_verbs_match pairs[PORTS], wanted[] = {{0, 0}, {1, 1}};

	expect_pairs(pairs, kvx_verbs_match(local, 2, remote, 2, pairs), wanted, 2);
}

Test(verbs_match, one_port_serves_all_of_the_other_side)
{
	struct kvx_verbs_remote_port local[] = {roce("10.0.0.1", 24)};
	struct kvx_verbs_remote_port remote[] = {roce("10.0.0.2", 24), roce("10.0.0.3", 24),
						 roce("10.0.0.4", 24)};
	struct kvx_verbs_match pairs[PORTS], wanted[] = {{0, 0}, {0, 1}, {0, 2}};

	expect_pairs(pairs, kvx_verbs_match(local, 1, remote, 3, pairs), wanted, 3);
}

Test(verbs_match, unlike_ports_make_no_pair)
{
	const struct {
		struct kvx_verbs_remote_port local, remote;
	} cases[] = {
		{roce("10.0.0.1", 24), infiniband(0)},
		{infiniband(1), infiniband(2)},
		{roce("10.0.0.1", 24), roce("2001:db8::1", 64)},
		{roce("fe80::1", 64), roce("2001:db8::1", 64)},
	};
	struct kvx_verbs_match pairs[PORTS];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(kvx_verbs_match(&cases[i].local, 1, &cases[i].remote, 1, pairs), 0,
			     "case %zu", i);
}

Test(verbs_match, ports_of_one_subnet_or_link_are_pairs)
{
	const struct {
		struct kvx_verbs_remote_port local, remote;
	} cases[] = {
		{infiniband(7), infiniband(7)},
		{roce("fe80::1", 64), roce("fe80::2", 64)},
		{roce("2001:db8::1", 64), roce("2001:db8::2", 64)},
	};
	struct kvx_verbs_match pairs[PORTS];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(kvx_verbs_match(&cases[i].local, 1, &cases[i].remote, 1, pairs), 1,
			     "case %zu", i);
}

/* Some of the networks 10.0.0.0/24 .. 10.0.3.0/24. */
static uint32_t draw_ports(uint64_t *random, struct kvx_verbs_remote_port *ports)
{
	uint32_t count = random_between(random, 1, PORTS);

	for (uint32_t i = 0; i < count; i++) {
		char address[32];
		snprintf(address, sizeof(address), "10.0.%u.%u", random_between(random, 0, 3),
			 random_between(random, 1, 250));
		ports[i] = roce(address, 24);
	}
	return count;
}

static bool one_network(const struct kvx_verbs_remote_port *a,
			const struct kvx_verbs_remote_port *b)
{
	return memcmp(a->gid.raw, b->gid.raw, 15) == 0;
}

/* How often each port is in a pair, and whether it could be in one. */
static void expect_all_used(const struct kvx_verbs_remote_port *ports, uint32_t count,
			    const struct kvx_verbs_remote_port *others, uint32_t other_count,
			    const uint32_t *uses)
{
	for (uint32_t i = 0; i < count; i++) {
		bool could = false;
		for (uint32_t j = 0; j < other_count; j++)
			could = could || one_network(&ports[i], &others[j]);
		cr_assert_eq(uses[i] > 0, could, "port %u is in %u pairs", i, uses[i]);
	}
}

Test(verbs_match, each_port_with_a_neighbour_is_used_and_none_without)
{
	struct kvx_verbs_remote_port local[PORTS], remote[PORTS];
	uint64_t random = random_seed();

	for (int round = 0; round < 2000; round++) {
		uint32_t local_count = draw_ports(&random, local);
		uint32_t remote_count = draw_ports(&random, remote);
		uint32_t local_uses[PORTS] = {0}, remote_uses[PORTS] = {0};
		struct kvx_verbs_match pairs[PORTS];
		uint32_t count = kvx_verbs_match(local, local_count, remote, remote_count, pairs);
		bool neighbours =
			count && one_network(&local[pairs[0].local], &remote[pairs[0].remote]);
		cr_assert_gt(count, 0);
		cr_assert_leq(count, PORTS);
		for (uint32_t i = 0; i < count; i++) {
			cr_assert_eq(one_network(&local[pairs[i].local], &remote[pairs[i].remote]),
				     neighbours);
			local_uses[pairs[i].local]++;
			remote_uses[pairs[i].remote]++;
		}
		if (!neighbours || count == PORTS)
			continue;
		expect_all_used(local, local_count, remote, remote_count, local_uses);
		expect_all_used(remote, remote_count, local, local_count, remote_uses);
	}
}
