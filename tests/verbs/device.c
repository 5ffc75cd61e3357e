/* SPDX-License-Identifier: Apache-2.0 */
/* Devices, ports and events. */
#include "support/devices.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMPLETION_DEADLINE_NS (5 * KVX_NS_PER_S)
#define MIB (UINT64_C(1) << 20)
#define PSN 77u

TestSuite(device, .init = devices_set_up, .fini = devices_tear_down);

static void expect_failure(const char *devices, int code, const char *text)
{
	cr_assert_eq(devices_open(devices), code);
	cr_assert_str_eq(kvx_error_text(), text);
	cr_assert_eq(transport.device_count, 0);
	cr_assert_eq(transport.port_count, 0);
}

static void expect_ports(const char *expected)
{
	char text[1024] = "", name[128];

	for (uint32_t i = 0; i < transport.port_count; i++) {
		kvx_verbs_port_name(&transport.ports[i], name, sizeof(name));
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i ? ", " : "",
			 name);
	}
	cr_assert_str_eq(text, expected);
}

/* --- what is opened --- */

Test(device, without_any_the_text_says_what_to_do)
{
	expect_failure("", KVX_E_UNSUPPORTED,
		       "verbs: there is no RDMA device; load its driver, or try soft-RoCE (rdma "
		       "link add NAME type rxe netdev INTERFACE)");
}

Test(device, all_are_opened_in_the_order_that_people_count)
{
	cr_assert_eq(devices_open("fake10:ROCE:100,fake9:ROCE:100:2,ib0:IB:200"), 0);
	expect_ports("fake9 port 1, fake9 port 2, fake10 port 1, ib0 port 1");
	cr_assert_eq(transport.device_count, 3);
	for (uint32_t i = 0; i < transport.device_count; i++)
		cr_assert_eq(transport.devices[i].index, i);
}

Test(device, the_option_chooses_devices_and_ports)
{
	devices_option("verbs_devices", "fake1:2,fake2");
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100:2,fake2:ROCE:100:2"), 0);
	expect_ports("fake1 port 2, fake2 port 1, fake2 port 2");
	cr_assert_eq(transport.device_count, 2);
}

Test(device, a_name_that_does_not_exist_is_refused)
{
	devices_option("verbs_devices", "fake0,mlx5_0");
	expect_failure("fake1:ROCE:100,fake0:ROCE:100", KVX_E_INVALID,
		       "verbs: option verbs_devices: there is no device mlx5_0; there are: fake0, "
		       "fake1");
}

Test(device, a_name_is_refused_where_there_are_none)
{
	devices_option("verbs_devices", "mlx5_0");
	expect_failure("", KVX_E_INVALID,
		       "verbs: option verbs_devices: there is no device mlx5_0; there are none");
}

Test(device, a_port_that_does_not_exist_is_refused)
{
	devices_option("verbs_devices", "fake0,fake1:3");
	expect_failure("fake0:ROCE:100,fake1:ROCE:100:2", KVX_E_INVALID,
		       "verbs: option verbs_devices: fake1 has no port 3; it has 2");
}

Test(device, malformed_choices_are_refused)
{
	static const char *const items[] = {"fake0:0", "fake0:256", "fake0:x", "fake0:", ":1"};
	char text[256];

	for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
		devices_option("verbs_devices", items[i]);
		snprintf(text, sizeof(text),
			 "verbs: option verbs_devices: \"%s\" is not NAME or NAME:PORT", items[i]);
		expect_failure("fake0:ROCE:100", KVX_E_INVALID, text);
	}
}

/* --- ports --- */

Test(device, a_roce_port_shows_which_gid_and_why)
{
	cr_assert_eq(devices_open("fake0:ROCE:100:1:l4"), 0);
	const struct kvx_verbs_port *port = &transport.ports[0];
	cr_assert_eq(port->link_layer, IBV_LINK_LAYER_ETHERNET);
	cr_assert_eq(port->gid_index, 3);
	cr_assert_str_eq(port->interface, "lo");
	cr_assert_str_eq(port->why, "gid 3, RoCE v2, 10.200.1.1 of lo: IPv4 address, in use on no "
				    "interface");
	cr_assert_eq(port->prefix_bits, 0);
	cr_assert_eq(port->speed_mbps, 100000);
	cr_assert_eq(port->mtu, IBV_MTU_4096);
	cr_assert(port->up);
	cr_assert(strstr(logged, "fake0 port 1: gid 3, RoCE v2, 10.200.1.1 of lo: IPv4 address, in "
				 "use on no interface; 100000 Mbit/s, mtu 4096, up, memory windows"
				 "\n"),
		  "%s", logged);
}

Test(device, an_infiniband_port_has_a_lid)
{
	cr_assert_eq(devices_open("ib0:IB:400"), 0);
	const struct kvx_verbs_port *port = &transport.ports[0];
	cr_assert_eq(port->link_layer, IBV_LINK_LAYER_INFINIBAND);
	cr_assert_eq(port->gid_index, 0);
	cr_assert_neq(port->lid, 0);
	cr_assert_eq(port->speed_mbps, 400000);
	cr_assert_str_empty(port->interface);
	cr_assert(strstr(port->why, "gid 0, InfiniBand, fe80::") == port->why, "%s", port->why);
}

Test(device, an_option_overrides_the_gid)
{
	devices_option("verbs_gid_index", "1");
	cr_assert_eq(devices_open("fake0:ROCE:100:1:l4"), 0);
	cr_assert_eq(transport.ports[0].gid_index, 1);
	cr_assert(strstr(transport.ports[0].why, "gid 1, RoCE v2, fe80::"));
	cr_assert(strstr(transport.ports[0].why, ": option verbs_gid_index"));
}

Test(device, a_gid_that_does_not_exist_is_refused)
{
	devices_option("verbs_gid_index", "9");
	expect_failure("fake0:ROCE:100:1:l", KVX_E_INVALID,
		       "verbs: no port is usable: fake0 port 1: option verbs_gid_index: there is "
		       "no GID 9; there are 0, 1");
}

Test(device, a_gid_index_is_a_number)
{
	devices_option("verbs_gid_index", "three");
	expect_failure("fake0:ROCE:100", KVX_E_INVALID,
		       "verbs: option verbs_gid_index: \"three\" is neither auto nor 0..255");
}

Test(device, ports_that_lack_the_gid_are_left_out)
{
	devices_option("verbs_gid_index", "3");
	cr_assert_eq(devices_open("fake0:ROCE:100:1:l,fake1:ROCE:100:1:l4"), 0);
	expect_ports("fake1 port 1");
	cr_assert_eq(transport.devices[0].index, 0);
	cr_assert(strstr(logged, "verbs: left out: fake0 port 1: "), "%s", logged);
}

Test(device, a_partition_key_that_does_not_exist_is_refused)
{
	devices_option("verbs_pkey_index", "7");
	expect_failure("fake0:ROCE:100", KVX_E_INVALID,
		       "verbs: no port is usable: fake0 port 1: option verbs_pkey_index: there is "
		       "no partition key 7; there are 1");
}

Test(device, the_smaller_mtu_counts)
{
	static const struct {
		const char *option;
		uint64_t active;
		enum ibv_mtu mtu;
	} cases[] = {
		{"auto", 1024, IBV_MTU_1024}, {"512", 1024, IBV_MTU_512},
		{"1024", 1024, IBV_MTU_1024}, {"4096", 1024, IBV_MTU_1024},
		{"256", 4096, IBV_MTU_256},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		devices_option("verbs_mtu", cases[i].option);
		fake_verbs_set("mtu", cases[i].active);
		cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
		cr_assert_eq(transport.ports[0].mtu, cases[i].mtu, "case %zu", i);
		kvx_verbs_devices_close(&transport);
	}
}

Test(device, a_port_that_is_down_is_kept)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100", true);
	fake_verbs_port("fake0", 1, false);
	cr_assert_eq(kvx_verbs_devices_open(&transport), 0);
	expect_ports("fake0 port 1");
	cr_assert(!transport.ports[0].up);
	cr_assert(!kvx_verbs_port_refresh(&transport.ports[0]));
	fake_verbs_port("fake0", 1, true);
	cr_assert(kvx_verbs_port_refresh(&transport.ports[0]));
	cr_assert(transport.ports[0].up);
}

/* --- limits --- */

Test(device, windows_are_used_where_they_are_and_wanted)
{
	for (int has = 0; has < 2; has++)
		for (int wants = 0; wants < 2; wants++) {
			fake_verbs_set("windows", (uint64_t)has);
			devices_option("verbs_windows", wants ? "on" : "off");
			cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
			cr_assert_eq(transport.devices[0].windows, has && wants);
			kvx_verbs_devices_close(&transport);
		}
}

Test(device, limits_are_the_devices)
{
	fake_verbs_set("max_rd_atomic", 300);
	fake_verbs_set("max_srq_wr", 100);
	fake_verbs_set("max_cqe", 1000);
	fake_verbs_set("max_mr_size", 5 * MIB);
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	const struct kvx_verbs_device *device = &transport.devices[0];
	cr_assert_eq(device->reads_out, UINT8_MAX);
	cr_assert_eq(device->reads_in, UINT8_MAX);
	cr_assert_eq(device->receives, 100);
	cr_assert_eq(device->send_room, 900);
	cr_assert_eq(device->mr_bytes_max, 4 * MIB);
	cr_assert_eq(transport.chunk_bytes, 4 * MIB);
}

Test(device, a_limit_of_registrations_has_bounds)
{
	static const struct {
		uint64_t limit, bytes;
	} cases[] = {
		{UINT64_MAX, UINT64_C(1) << 62},
		{0, KVX_VERBS_CHUNK_MIN},
		{MIB, KVX_VERBS_CHUNK_MIN},
		{UINT64_C(1) << 40, UINT64_C(1) << 40},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fake_verbs_set("max_mr_size", cases[i].limit);
		cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
		cr_assert_eq(transport.chunk_bytes, cases[i].bytes, "case %zu", i);
		kvx_verbs_devices_close(&transport);
	}
}

/* --- a queue pair that is connected to itself --- */

static struct ibv_qp *make_qp(const struct kvx_verbs_port *port)
{
	struct kvx_verbs_device *device = port->device;
	struct ibv_qp_init_attr init = {
		.send_cq = device->cq,
		.recv_cq = device->cq,
		.srq = device->srq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = 64, .max_send_sge = 1},
		.sq_sig_all = 1,
	};
	struct ibv_qp *qp = ibv_create_qp(device->pd, &init);
	cr_assert(qp);
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = port->number,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	cr_assert_eq(
		ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
		0);
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTR,
		.path_mtu = (enum ibv_mtu)port->mtu,
		.dest_qp_num = qp->qp_num,
		.rq_psn = PSN,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12,
		.ah_attr = {.grh = {.dgid = port->gid,
				    .sgid_index = port->gid_index,
				    .hop_limit = 64},
			    .is_global = 1,
			    .port_num = port->number},
	};
	cr_assert_eq(ibv_modify_qp(qp, &attr,
				   IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
					   IBV_QP_MIN_RNR_TIMER),
		     0);
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS,
		.timeout = 14,
		.retry_cnt = 7,
		.rnr_retry = 6,
		.sq_psn = PSN,
		.max_rd_atomic = 1,
	};
	cr_assert_eq(ibv_modify_qp(qp, &attr,
				   IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
					   IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
					   IBV_QP_MAX_QP_RD_ATOMIC),
		     0);
	return qp;
}

static void send_immediate(struct ibv_qp *qp)
{
	struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_WRITE_WITH_IMM, .wr_id = 1}, *bad;

	cr_assert_eq(ibv_post_send(qp, &wr, &bad), 0);
}

/* Takes `count` completions, of sends and receives together. Returns how many are of receives. */
static uint32_t take_completions(struct kvx_verbs_device *device, uint32_t count)
{
	int64_t deadline_ns = kvx_now_ns() + COMPLETION_DEADLINE_NS;
	uint32_t receives = 0;
	struct ibv_wc wc;

	while (count && kvx_now_ns() < deadline_ns) {
		if (ibv_poll_cq(device->cq, 1, &wc) == 0)
			continue;
		cr_assert_eq(wc.status, IBV_WC_SUCCESS);
		receives += wc.wr_id == KVX_VERBS_RECEIVE_ID;
		count--;
	}
	cr_assert_eq(count, 0);
	return receives;
}

static bool is_full(struct kvx_verbs_device *device)
{
	struct ibv_recv_wr wr = {.wr_id = KVX_VERBS_RECEIVE_ID}, *bad;

	return ibv_post_srq_recv(device->srq, &wr, &bad) != 0;
}

Test(device, receives_are_posted_at_the_start_and_again_in_batches)
{
	devices_option("verbs_receives", "100");
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_verbs_device *device = &transport.devices[0];
	cr_assert_eq(device->receives, 100);
	cr_assert_eq(device->receives_due, 0);
	cr_assert(is_full(device));

	struct ibv_qp *qp = make_qp(&transport.ports[0]);
	for (int i = 0; i < 20; i++)
		send_immediate(qp);
	device->receives_due = take_completions(device, 40);
	cr_assert_eq(device->receives_due, 20);

	/* 20 of 100 are too few for a batch, unless all are wanted. */
	kvx_verbs_device_refill(device, false);
	cr_assert_eq(device->receives_due, 20);
	kvx_verbs_device_refill(device, true);
	cr_assert_eq(device->receives_due, 0);
	cr_assert(is_full(device));

	for (int i = 0; i < 30; i++)
		send_immediate(qp);
	device->receives_due = take_completions(device, 60);
	kvx_verbs_device_refill(device, false);
	cr_assert_eq(device->receives_due, 0);
	cr_assert(is_full(device));
	cr_assert_eq(told.deaths, 0);
	ibv_destroy_qp(qp);
}

Test(device, more_receives_than_there_is_room_for_end_the_device)
{
	devices_option("verbs_receives", "100");
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_verbs_device *device = &transport.devices[0];
	device->receives_due = 1;
	kvx_verbs_device_refill(device, true);
	cr_assert(device->dead);
	cr_assert_eq(told.deaths, 1);
	cr_assert(strstr(told.text, "fake0: cannot post receives: "), "%s", told.text);
}

/* --- events --- */

Test(device, a_completion_makes_the_channel_ready_when_asked)
{
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_verbs_device *device = &transport.devices[0];
	struct ibv_qp *qp = make_qp(&transport.ports[0]);

	send_immediate(qp);
	take_completions(device, 2);
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);

	/* Often enough that events are acknowledged on the way. */
	for (uint32_t i = 1; i <= 300; i++) {
		kvx_verbs_device_arm(device);
		send_immediate(qp);
		devices_run_until(&told.polls, i);
		take_completions(device, 2);
		cr_assert_eq(kvx_poller_run(&poller, 0), 0);
		device->receives_due++;
		kvx_verbs_device_refill(device, true);
	}
	cr_assert_eq(told.device, device);
	cr_assert_lt(device->events_unacknowledged, 300);
	ibv_destroy_qp(qp);
}

Test(device, the_state_of_a_port_is_told)
{
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100:2"), 0);
	fake_verbs_port("fake1", 2, false);
	devices_run_until(&told.port_changes, 1);
	cr_assert_eq(told.port, &transport.ports[2]);
	cr_assert(!told.up);
	cr_assert(!transport.ports[2].up);
	cr_assert(transport.ports[1].up);
	cr_assert_str_eq(told.text, "fake1 port 2: port error");

	fake_verbs_port("fake1", 2, true);
	devices_run_until(&told.port_changes, 2);
	cr_assert_eq(told.port, &transport.ports[2]);
	cr_assert(told.up);
	cr_assert(transport.ports[2].up);
	cr_assert_str_eq(told.text, "fake1 port 2: port active");
	cr_assert_eq(told.port_changes, 2);
}

Test(device, ports_that_are_not_used_are_not_told_of)
{
	devices_option("verbs_devices", "fake0:2");
	cr_assert_eq(devices_open("fake0:ROCE:100:2"), 0);
	fake_verbs_port("fake0", 1, false);
	fake_verbs_port("fake0", 2, false);
	devices_run_until(&told.port_changes, 1);
	cr_assert_eq(told.port->number, 2);
}

Test(device, the_failure_of_a_queue_pair_is_told)
{
	static struct kvx_verbs_pair pair;

	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct ibv_qp *qp = make_qp(&transport.ports[0]);
	known_pair = &pair;
	cr_assert(fake_verbs_qp_fatal(qp->qp_num));
	devices_run_until(&told.pair_failures, 1);
	cr_assert_eq(told.pair, &pair);
	cr_assert_eq(told.device, &transport.devices[0]);
	cr_assert_eq(told.qpn, qp->qp_num);
	cr_assert_str_eq(told.text, "fake0: queue pair error");
	cr_assert_eq(ibv_destroy_qp(qp), 0); /* would wait for an acknowledgement */
}

Test(device, the_failure_of_a_queue_pair_that_is_gone_is_not)
{
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct ibv_qp *qp = make_qp(&transport.ports[0]);
	cr_assert(fake_verbs_qp_fatal(qp->qp_num));
	devices_run_until(&told.qpn, qp->qp_num);
	cr_assert_eq(told.pair_failures, 0);
	cr_assert_eq(ibv_destroy_qp(qp), 0);
}

Test(device, a_fatal_error_ends_the_device_alone)
{
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100"), 0);
	fake_verbs_device_fatal("fake0");
	devices_run_until(&told.deaths, 1);
	cr_assert_eq(told.device, &transport.devices[0]);
	cr_assert_str_eq(told.text, "fake0: device error");
	cr_assert(transport.devices[0].dead);
	cr_assert(!transport.ports[0].up);
	cr_assert(!kvx_verbs_port_refresh(&transport.ports[0]));
	cr_assert(!transport.devices[1].dead);
	cr_assert(kvx_verbs_port_refresh(&transport.ports[1]));
}
