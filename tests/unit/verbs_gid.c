/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs/verbs.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>

#define ROWS_MAX 8u
#define TEXT_MAX 255u

#define IB KVX_VERBS_GID_IB
#define V1 KVX_VERBS_GID_ROCE_V1
#define V2 KVX_VERBS_GID_ROCE_V2

struct row {
	uint32_t index;
	enum kvx_verbs_gid_type type;
	const char *address; /* NULL ends a table */
	bool own;
};

static union ibv_gid gid_of(const char *address)
{
	union ibv_gid gid = {.raw = {[10] = 0xff, [11] = 0xff}};

	if (inet_pton(AF_INET, address, gid.raw + 12) != 1)
		cr_assert_eq(inet_pton(AF_INET6, address, gid.raw), 1, "%s", address);
	return gid;
}

static uint32_t fill(struct kvx_verbs_gid *table, const struct row *rows)
{
	uint32_t count = 0;

	for (; count < ROWS_MAX && rows[count].address; count++)
		table[count] = (struct kvx_verbs_gid){
			.index = rows[count].index,
			.type = rows[count].type,
			.gid = gid_of(rows[count].address),
			.interface = rows[count].own ? 2 : 0,
			.own = rows[count].own,
		};
	return count;
}

static int choose(const struct row *rows, int wanted, char *text)
{
	struct kvx_verbs_gid table[ROWS_MAX];
	uint32_t count = fill(table, rows);

	return kvx_verbs_gid_choose(table, count, wanted, text, TEXT_MAX + 1);
}

Test(verbs_gid, the_rule_chooses_and_says_why)
{
	static const struct {
		struct row rows[ROWS_MAX];
		int chosen;
		const char *why;
	} cases[] = {
		/* What a RoCE port with one IPv4 address shows. */
		{{{0, V1, "fe80::1", true},
		  {1, V2, "fe80::1", true},
		  {2, V1, "10.77.0.1", true},
		  {3, V2, "10.77.0.1", true}},
		 3,
		 "IPv4 address of the port's own interface"},
		/* The type before the address. */
		{{{0, V1, "10.77.0.1", true}, {1, V2, "fe80::1", true}},
		 1,
		 "link-local address of the port's own interface"},
		/* Each reach before the next, wherever they stand. */
		{{{0, V2, "127.0.0.1", true}, {1, V2, "fe80::1", true}},
		 1,
		 "link-local address of the port's own interface"},
		{{{0, V2, "fe80::1", true}, {1, V2, "fd00::1", true}},
		 1,
		 "unique-local address of the port's own interface"},
		{{{0, V2, "fd00::1", true}, {1, V2, "2001:db8::1", true}},
		 1,
		 "global address of the port's own interface"},
		{{{0, V2, "2001:db8::1", true}, {1, V2, "10.0.0.1", true}},
		 1,
		 "IPv4 address of the port's own interface"},
		{{{0, V2, "10.0.0.1", true}, {1, V2, "2001:db8::1", true}},
		 0,
		 "IPv4 address of the port's own interface"},
		/* Addresses that nobody routes are link-local in IPv4 too. */
		{{{0, V2, "169.254.1.1", true}, {1, V2, "2001:db8::1", true}},
		 1,
		 "global address of the port's own interface"},
		{{{0, V2, "::1", true}}, 0, "loopback address of the port's own interface"},
		/* An address in use before one that is not. */
		{{{0, V2, "10.0.0.1", false}, {1, V2, "10.0.0.2", true}},
		 1,
		 "IPv4 address of the port's own interface"},
		{{{0, V2, "10.0.0.1", false}}, 0, "IPv4 address, in use on no interface"},
		/* Lower indices first, whatever the order of rows. */
		{{{7, V2, "10.0.0.1", true}, {3, V2, "10.0.0.2", true}, {5, V2, "10.0.0.3", true}},
		 1,
		 "IPv4 address of the port's own interface"},
		{{{2, V1, "10.0.0.1", true}},
		 0,
		 "IPv4 address of the port's own interface; there is no RoCE v2"},
		/* InfiniBand: the first, whatever its form. */
		{{{0, IB, "fe80::2:c903:0:1", false}, {1, IB, "2001:db8::1", false}},
		 0,
		 "the port's first"},
		/* What is no address of one port is passed over. */
		{{{0, V2, "::", true}, {1, V2, "ff02::1", true}, {2, V2, "fe80::1", true}},
		 2,
		 "link-local address of the port's own interface"},
		{{{0, V2, "0.0.0.0", true}, {1, V2, "224.0.0.1", true}},
		 -1,
		 "it has no GID; give its interface an address"},
		{{{0}}, -1, "it has no GID; give its interface an address"},
	};
	char text[TEXT_MAX + 1];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(choose(cases[i].rows, -1, text), cases[i].chosen, "case %zu", i);
		cr_assert_str_eq(text, cases[i].why, "case %zu", i);
	}
}

Test(verbs_gid, an_index_overrides_the_rule)
{
	static const struct row rows[] = {
		{0, V1, "fe80::1", true},
		{1, V2, "fe80::1", true},
		{4, V2, "10.0.0.1", true},
		{5, V2, "0.0.0.0", false},
		{0},
	};
	static const struct row none[] = {{0}};
	static const struct {
		const struct row *rows;
		int wanted, chosen;
		const char *why;
	} cases[] = {
		{rows, 0, 0, "option verbs_gid_index"},
		{rows, 4, 2, "option verbs_gid_index"},
		{rows, 2, -1, "there is no GID 2; there are 0, 1, 4"},
		{rows, 5, -1, "there is no GID 5; there are 0, 1, 4"},
		{none, 0, -1, "there is no GID 0; there are none"},
	};
	char text[TEXT_MAX + 1];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(choose(cases[i].rows, cases[i].wanted, text), cases[i].chosen,
			     "case %zu", i);
		cr_assert_str_eq(text, cases[i].why, "case %zu", i);
	}
}

Test(verbs_gid, texts_are_cut_to_their_room)
{
	static const struct row rows[] = {
		{0, V2, "fe80::1", true}, {1, V2, "fe80::2", true}, {2, V2, "fe80::3", true}, {0}};
	struct kvx_verbs_gid table[ROWS_MAX];
	uint32_t count = fill(table, rows);

	for (size_t size = 1; size < 64; size++) {
		char text[65];
		memset(text, '!', sizeof(text));
		cr_assert_eq(kvx_verbs_gid_choose(table, count, 9, text, size), -1);
		cr_assert_lt(strnlen(text, size), size);
		cr_assert_eq(text[size], '!');
	}
}

Test(verbs_gid, addresses_are_written_as_people_know_them)
{
	static const char *const addresses[] = {"10.77.0.1", "2001:db8::1", "fe80::2:c903:a1:b2c3"};

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		union ibv_gid gid = gid_of(addresses[i]);
		char text[INET6_ADDRSTRLEN];
		kvx_verbs_gid_format(&gid, text, sizeof(text));
		cr_assert_str_eq(text, addresses[i]);
	}
}
