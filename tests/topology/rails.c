/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/rails.h"

#include "support/chance.h"
#include "topology/choose.h"
#include "topology/explain.h"
#include "topology/tree.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define RAILS 64
#define CLOSE 1e-6

/* Ports of one NUMA node; names of fabrics are letters, '-' is none. */
static void make(struct kvx_machine *machine, const char *fabrics)
{
	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t numa = tree_numa(machine, 0, 0);

	for (uint32_t i = 0; fabrics[i]; i++) {
		tree_port(machine, numa, kvx_pci_make(0, 1 + i, 0, 0), 400);
		if (fabrics[i] != '-')
			snprintf(machine->ports[i].shown.fabric, 2, "%c", fabrics[i]);
	}
	tree_finish(machine);
}

/* "0-1 1-0" for the chosen rails. */
static void show(const struct kvx_topology_rail *rails, uint32_t count, enum kvx_port_use use,
		 char *text, size_t size)
{
	size_t length = 0;

	text[0] = 0;
	for (uint32_t i = 0; i < count; i++)
		if (rails[i].use == use)
			length += (size_t)snprintf(text + length, size - length, "%s%u-%u",
						   length ? " " : "", rails[i].local_port,
						   rails[i].remote_port);
}

Test(rails, ports_that_share_a_fabric_are_joined)
{
	static const struct {
		const char *here, *there, *chosen;
	} cases[] = {
		{"--", "--", "0-0 1-1"},             /* not known: the n-th with the n-th */
		{"aa", "aa", "0-0 1-1"},             /* one fabric */
		{"abcd", "abcd", "0-0 1-1 2-2 3-3"}, /* a fabric for each rail */
		{"abcd", "dcba", "0-3 1-2 2-1 3-0"}, /* cabled the other way round */
		{"ab", "bc", "1-0"},
		{"ab", "cd", ""},
		{"aaaa", "a", "0-0 1-0 2-0 3-0"}, /* one port there for all */
		{"a", "aa", "0-0 0-1"},
		{"ab", "--", "0-0 1-1"},
		{"a-", "a-", "0-0"}, /* an unconfigured port beside one that is not */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvx_machine here = {0}, there = {0};
		struct kvx_topology_rail rails[RAILS];
		char shown[256];
		make(&here, cases[i].here);
		make(&there, cases[i].there);
		uint32_t count = kvx_rails_make((struct kvx_end){&here, 0},
						(struct kvx_end){&there, 0}, rails, RAILS);
		show(rails, count, KVX_USE_CHOSEN, shown, sizeof(shown));
		cr_assert_str_eq(shown, cases[i].chosen, "case %zu: %s", i, shown);
		kvx_machine_finish(&here);
		kvx_machine_finish(&there);
	}
}

static void set_fabric(struct kvx_machine *machine, uint32_t port, const char *fabric)
{
	snprintf(machine->ports[port].shown.fabric, sizeof(machine->ports[port].shown.fabric), "%s",
		 fabric);
}

static uint32_t count_chosen(struct kvx_machine *here, struct kvx_machine *there)
{
	struct kvx_topology_rail rails[RAILS];
	uint32_t chosen = 0, count = kvx_rails_make((struct kvx_end){here, 0},
						    (struct kvx_end){there, 0}, rails, RAILS);

	for (uint32_t i = 0; i < count; i++)
		chosen += rails[i].use == KVX_USE_CHOSEN;
	return chosen;
}

Test(rails, subnets_of_which_none_is_common_are_taken_to_be_routed)
{
	struct kvx_machine here = {0}, there = {0};

	make(&here, "--");
	make(&there, "--");
	set_fabric(&here, 0, "10.0.0.0/31");
	set_fabric(&here, 1, "10.0.1.0/31");
	set_fabric(&there, 0, "10.0.2.0/31");
	set_fabric(&there, 1, "10.0.3.0/31");
	cr_assert_eq(count_chosen(&here, &there), 2);
	set_fabric(&there, 1, "10.0.1.0/31"); /* one is common: the others are not routed */
	cr_assert_eq(count_chosen(&here, &there), 1);
	set_fabric(&here, 0, "red");
	set_fabric(&there, 0, "blue");
	set_fabric(&there, 1, "blue"); /* names are not subnets */
	cr_assert_eq(count_chosen(&here, &there), 0);
	kvx_machine_finish(&here);
	kvx_machine_finish(&there);
}

Test(rails, infiniband_does_not_reach_ethernet)
{
	struct kvx_machine here = {0}, there = {0};

	make(&here, "-");
	make(&there, "-");
	here.ports[0].shown.link = KVX_LINK_INFINIBAND;
	there.ports[0].shown.link = KVX_LINK_ETHERNET;
	cr_assert_eq(count_chosen(&here, &there), 0);
	there.ports[0].shown.link = KVX_LINK_UNKNOWN;
	cr_assert_eq(count_chosen(&here, &there), 1);
	kvx_machine_finish(&here);
	kvx_machine_finish(&there);
}

/* A machine whose n-th GPU has the n-th port behind a switch of theirs, on the n-th rail. */
static void make_rail_only(struct kvx_machine *machine, uint32_t count)
{
	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t numa = tree_numa(machine, 0, 0);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t host = tree_box(machine, KVX_BOX_HOST_BRIDGE, numa);
		uint32_t bridge = tree_box(machine, KVX_BOX_SWITCH, host);
		tree_gpu(machine, bridge, kvx_pci_make(0, 1 + i, 0, 0));
		tree_port(machine, bridge, kvx_pci_make(0, 100 + i, 0, 0), 400);
		snprintf(machine->ports[i].shown.fabric, 8, "rail%u", i);
	}
	tree_finish(machine);
}

Test(rails, where_each_rail_is_a_fabric_rails_stay_in_theirs)
{
	struct kvx_machine here = {0}, there = {0};
	struct kvx_topology_rail rails[RAILS];
	char shown[256];

	make_rail_only(&here, 4);
	make_rail_only(&there, 4);
	uint32_t count = kvx_rails_make((struct kvx_end){&here, 1}, (struct kvx_end){&there, 1},
					rails, RAILS);
	show(rails, count, KVX_USE_CHOSEN, shown, sizeof(shown));
	cr_assert_str_eq(shown, "1-1");
	show(rails, count, KVX_USE_FAILOVER, shown, sizeof(shown));
	cr_assert_str_eq(shown, "0-0 2-2 3-3");
	/* Between GPUs of different rails one end has a way to go; both ways are as short. */
	count = kvx_rails_make((struct kvx_end){&here, 0}, (struct kvx_end){&there, 3}, rails,
			       RAILS);
	show(rails, count, KVX_USE_CHOSEN, shown, sizeof(shown));
	cr_assert_str_eq(shown, "0-0 3-3");
	kvx_machine_finish(&here);
	kvx_machine_finish(&there);
}

Test(rails, a_port_that_reaches_nobody_is_explained)
{
	struct kvx_machine here = {0}, there = {0};
	struct kvx_end local = {&here, 0}, remote = {&there, 0};
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	make(&here, "ab");
	make(&there, "bc");
	kvx_explain_rail(local, 0, remote, text, sizeof(text));
	cr_assert(strstr(text, "no common fabric"), "%s", text);
	kvx_explain_rail(local, 1, remote, text, sizeof(text));
	cr_assert(strstr(text, "chosen rail to nic0 port 1"), "%s", text);
	here.ports[1].shown.state = KVX_PORT_DOWN;
	kvx_choose(&here);
	kvx_explain_rail(local, 1, remote, text, sizeof(text));
	cr_assert(strstr(text, "the port is down"), "%s", text);
	kvx_machine_finish(&here);
	kvx_machine_finish(&there);
}

static void expect_rails(const struct kvx_topology_rail *rails, uint32_t count,
			 struct kvx_end local, struct kvx_end remote)
{
	double sums[3] = {0, 0, 0};

	for (uint32_t i = 0; i < count; i++) {
		const struct kvx_topology_port
			*here = &local.machine->ports[rails[i].local_port].shown,
			*there = &remote.machine->ports[rails[i].remote_port].shown;
		sums[rails[i].use] += rails[i].weight;
		cr_assert(rails[i].weight > 0);
		cr_assert(i == 0 || rails[i].use <= rails[i - 1].use);
		cr_assert(here->state != KVX_PORT_DOWN && there->state != KVX_PORT_DOWN);
		cr_assert(here->fitness == KVX_PORT_FIT && there->fitness == KVX_PORT_FIT);
	}
	cr_assert_float_eq(sums[KVX_USE_NONE], 0, 0);
	cr_assert(count == 0 || fabs(sums[KVX_USE_CHOSEN] - 1) < CLOSE);
	cr_assert(sums[KVX_USE_FAILOVER] == 0 || fabs(sums[KVX_USE_FAILOVER] - 1) < CLOSE);
}

/* Does either end's list hold the same pairs? */
static void expect_same(const struct kvx_topology_rail *here, const struct kvx_topology_rail *there,
			uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		bool is_found = false;
		for (uint32_t k = 0; k < count; k++)
			is_found |= here[i].local_port == there[k].remote_port &&
				    here[i].remote_port == there[k].local_port &&
				    here[i].use == there[k].use &&
				    fabs(here[i].weight - there[k].weight) < CLOSE;
		cr_assert(is_found, "rail %u is at one end only", i);
	}
}

Test(rails, both_ends_come_to_the_same_rails)
{
	static const struct tree_settings settings = {6, 8, true};
	static struct kvx_topology_rail forth[1024], back[1024];
	uint64_t random = random_seed();

	for (int round = 0; round < 1000; round++) {
		struct kvx_machine here = {0}, there = {0};
		tree_make(&here, &settings, &random);
		tree_make(&there, &settings, &random);
		for (uint32_t i = 0; round % 2 && i < here.port_count; i++)
			set_fabric(&here, i, random_between(&random, 0, 1) ? "a" : "b");
		for (uint32_t i = 0; round % 2 && i < there.port_count; i++)
			set_fabric(&there, i, random_between(&random, 0, 1) ? "a" : "c");
		tree_finish(&here);
		tree_finish(&there);
		struct kvx_end local = {&here, random_between(&random, 0, here.place_count - 1)},
			       remote = {&there, random_between(&random, 0, there.place_count - 1)};
		uint32_t count = kvx_rails_make(local, remote, forth, 1024);
		cr_assert_eq(kvx_rails_make(remote, local, back, 1024), count);
		expect_rails(forth, count, local, remote);
		expect_same(forth, back, count);
		kvx_machine_finish(&here);
		kvx_machine_finish(&there);
	}
}
