/* SPDX-License-Identifier: Apache-2.0 */
/* RDMA devices, their ports, GIDs and MTUs, as an engine would find them. */
#include "doctor/checkup.h"
#include "verbs/doctor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 255u
#define MTU_MAX 4096u
/* What RoCE v2 adds to a packet's payload: at least IPv4, UDP, BTH, RETH, immediate and ICRC; at
 * most, as Linux counts when it derives one MTU from the other, GRH, UDP, BTH, XRC, atomics, ICRC.
 */
#define OVERHEAD_MIN 64u
#define OVERHEAD_MAX 96u

/* A device and its port, for texts. */
struct port {
	struct kvx_checkup *checkup;
	const struct kvx_verbs_port_exam *exam;
	char name[TEXT_MAX + 1]; /* "mlx5_0 port 1" */
};

static void check_state(const struct port *port)
{
	const struct kvx_verbs_port_exam *exam = port->exam;
	const char *link = exam->is_ethernet ? "RoCE" : "InfiniBand";
	const char *action;

	if (exam->is_up) {
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_OK, "rdma", "",
				 "%s: active, %s, %g Gb/s", port->name, link,
				 exam->speed_mbps / 1000.0);
		return;
	}
	if (exam->is_ethernet)
		action = "bring its network interface up (ip link set INTERFACE up); if it is, "
			 "see to the cable and to the switch's port";
	else if (exam->is_link_up)
		action = "the cable is in order and nobody has made the port active: start a "
			 "subnet manager (opensm), or see to the one that there is";
	else
		action = "see to the cable and to the switch's port; leave a port that is meant to "
			 "be dark out of option verbs_devices";
	kvx_checkup_tell(port->checkup, KVX_SEVERITY_WARNING, "rdma", action,
			 "%s: %s, %s: it carries nothing", port->name, exam->state, link);
}

static void check_gid(const struct port *port)
{
	const struct kvx_verbs_port_exam *exam = port->exam;
	enum kvx_severity severity = KVX_SEVERITY_OK;
	const char *action = "";

	if (exam->gid_error) {
		bool is_option = exam->gid_error == KVX_E_INVALID;
		kvx_checkup_tell(
			port->checkup,
			is_option || exam->is_up ? KVX_SEVERITY_ERROR : KVX_SEVERITY_WARNING, "gid",
			is_option ? "correct the option, or leave it to the rule"
				  : "give the port's network interface an IP address",
			"%s", exam->gid);
		return;
	}
	if (exam->is_gid_v1) {
		severity = KVX_SEVERITY_WARNING;
		action = "RoCE v1 passes no router: enable RoCE v2 on the interface "
			 "(it needs an IP address there, and a driver that does it)";
	} else if (exam->is_gid_local) {
		severity = KVX_SEVERITY_WARNING;
		action = "give the port's network interface an IPv4 or a global IPv6 address: "
			 "link-local ones do not pass a router, and other hosts' rails may look "
			 "alike";
	}
	kvx_checkup_tell(port->checkup, severity, "gid", action, "%s: of %u GIDs an engine uses %s",
			 port->name, exam->gid_count, exam->gid);
}

static uint32_t interface_mtu(const struct port *port)
{
	char text[TEXT_MAX + 1];

	if (!port->exam->interface[0] ||
	    !kvx_checkup_line(port->checkup, text, sizeof(text), "/sys/class/net/%s/mtu",
			      port->exam->interface))
		return 0;
	return (uint32_t)strtoul(text, NULL, 10);
}

/* The largest RDMA MTU whose packets fit the interface's for sure. */
static uint32_t fitting_mtu(uint32_t interface)
{
	uint32_t mtu = MTU_MAX;

	while (mtu > 256 && mtu + OVERHEAD_MAX > interface)
		mtu /= 2;
	return mtu;
}

static void check_roce_mtu(const struct port *port, uint32_t below)
{
	const struct kvx_verbs_port_exam *exam = port->exam;
	uint32_t fits = fitting_mtu(below);

	if (fits > exam->mtu_max)
		fits = exam->mtu_max;
	if (exam->mtu + OVERHEAD_MIN > below)
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_ERROR, "mtu",
				 "raise the interface's MTU (ip link set INTERFACE mtu 9000), or "
				 "set option verbs_mtu to less, at both ends",
				 "%s: active MTU %u, and %s below it takes %u: full packets do not "
				 "leave",
				 port->name, exam->mtu, exam->interface, below);
	else if (fits > exam->mtu)
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_WARNING, "mtu",
				 "take the interface down and up, so that the port learns of it",
				 "%s: active MTU %u, although %s takes %u, which is enough for %u",
				 port->name, exam->mtu, exam->interface, below, fits);
	else if (exam->mtu < exam->mtu_max)
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_NOTE, "mtu",
				 "where hosts and switches all can, set MTU 9000 (ip link set "
				 "INTERFACE mtu 9000): fewer packets carry the same bytes",
				 "%s: active MTU %u of %u, because %s has %u", port->name,
				 exam->mtu, exam->mtu_max, exam->interface, below);
	else
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_OK, "mtu", "",
				 "%s: active MTU %u, over %s with %u", port->name, exam->mtu,
				 exam->interface, below);
}

static void check_mtu(const struct port *port)
{
	const struct kvx_verbs_port_exam *exam = port->exam;
	uint32_t below = interface_mtu(port);

	if (!exam->is_up)
		return; /* then it means nothing */
	if (below)
		check_roce_mtu(port, below);
	else if (exam->mtu < exam->mtu_max)
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_NOTE, "mtu",
				 exam->is_ethernet ? "raise the MTU of the port's interface"
						   : "raise the MTU in the subnet manager's "
						     "partitions",
				 "%s: active MTU %u of %u", port->name, exam->mtu, exam->mtu_max);
	else
		kvx_checkup_tell(port->checkup, KVX_SEVERITY_OK, "mtu", "", "%s: active MTU %u",
				 port->name, exam->mtu);
}

/* --------------------------------------------------------------------------------------- device */

static void check_ordering(struct kvx_checkup *checkup, const struct kvx_verbs_exam *exam)
{
	if (!exam->registered)
		return; /* told of already */
	if (exam->relaxed_error)
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "relaxed ordering",
				 "update driver and rdma-core; without it writes reach memory in "
				 "order, which is slower where the path to memory is long",
				 "%s: registration with relaxed ordering: %s", exam->name,
				 strerror(exam->relaxed_error));
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "relaxed ordering", "",
				 "%s: registration with relaxed ordering is taken", exam->name);
}

static void check_windows(struct kvx_checkup *checkup, const struct kvx_verbs_exam *exam)
{
	if (exam->has_windows)
		return;
	kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "rdma",
			 "nothing, where senders are trusted; use tcp for those that are not",
			 "%s: no memory windows: a fence then cuts queue pairs, and does not hold "
			 "against a hostile sender",
			 exam->name);
}

/* Kernels without it do not come as far as the descriptor. */
static void check_dmabuf(struct kvx_checkup *checkup, const struct kvx_verbs_exam *exam)
{
	if (checkup->has_tried_gpus)
		return; /* told of already, by a better try */
	if (exam->dmabuf_error == EBADF || exam->dmabuf_error == 0)
		kvx_checkup_tell(
			checkup, KVX_SEVERITY_OK, "gpudirect", "",
			"%s: takes memory by dma-buf (tried with a descriptor that is none)",
			exam->name);
	else
		kvx_checkup_tell(
			checkup, checkup->gpu_count ? KVX_SEVERITY_WARNING : KVX_SEVERITY_NOTE,
			"gpudirect",
			checkup->gpu_count ? "use Linux 5.12 or later and a driver that takes "
					     "dma-buf (mlx5), or load nvidia_peermem"
					   : "nothing, as long as no memory of a GPU is moved here",
			"%s: does not take memory by dma-buf: %s", exam->name,
			strerror(exam->dmabuf_error));
}

static void check_ports(struct kvx_checkup *checkup, const struct kvx_verbs_exam *exam)
{
	for (uint32_t i = 0; i < exam->port_count; i++) {
		struct port port = {.checkup = checkup, .exam = &exam->ports[i]};
		snprintf(port.name, sizeof(port.name), "%s port %u", exam->name,
			 exam->ports[i].number);
		check_state(&port);
		check_gid(&port);
		check_mtu(&port);
	}
}

static void take_device(void *context, const struct kvx_verbs_exam *exam)
{
	struct kvx_checkup *checkup = context;

	if (exam->left_out) {
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "rdma",
				 "nothing: shm and tcp are used in its place", "%s: %s", exam->name,
				 exam->left_out);
		return;
	}
	if (exam->open_error) {
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "rdma",
				 "see to the rights of /dev/infiniband (in a container: pass the "
				 "devices in), and to the kernel's log",
				 "%s: cannot be opened: %s", exam->name,
				 strerror(exam->open_error));
		return;
	}
	checkup->device_count++;
	check_ports(checkup, exam);
	kvx_check_lock_limit(checkup, exam->name, exam->registered, exam->register_error);
	check_windows(checkup, exam);
	check_ordering(checkup, exam);
	check_dmabuf(checkup, exam);
}

/* ----------------------------------------------------------------------------------- all of them
 */

static void ignore(void *context, const char *name)
{
	(void)context;
	(void)name;
}

static void check_absence(struct kvx_checkup *checkup)
{
	uint32_t known = kvx_checkup_each(checkup, "/sys/class/infiniband", ignore, NULL);

	if (known)
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "rdma",
				 "load ib_uverbs and install the providers (Debian: "
				 "ibverbs-providers); in a container pass /dev/infiniband in",
				 "the kernel has %u RDMA devices, and libibverbs lists none",
				 known);
	else
		kvx_checkup_tell(
			checkup, KVX_SEVERITY_NOTE, "rdma",
			"nothing, where none is meant to be; otherwise load its driver, or "
			"try soft-RoCE (rdma link add NAME type rxe netdev INTERFACE)",
			"no RDMA device: shm and tcp are used");
}

void kvx_check_rdma(struct kvx_checkup *checkup)
{
	int count = kvx_verbs_examine(checkup->options, take_device, checkup);

	if (count == 0 || count == KVX_E_UNSUPPORTED)
		check_absence(checkup);
	else if (count < 0)
		kvx_checkup_tell(checkup, KVX_SEVERITY_ERROR, "rdma",
				 "correct option verbs_devices, or see what the text names", "%s",
				 kvx_error_text());
}
