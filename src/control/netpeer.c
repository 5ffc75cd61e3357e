/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the kernel, by sock_diag(7), for the other socket of a connection within this machine. */
#include "control/door.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

struct question {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

static void set_end(const struct sockaddr_storage *address, __be16 *port, __be32 *words)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	memcpy(&v4, address, sizeof(v4));
	memcpy(&v6, address, sizeof(v6));
	if (address->ss_family == AF_INET) {
		*port = v4.sin_port;
		memcpy(words, &v4.sin_addr, sizeof(v4.sin_addr));
	} else {
		*port = v6.sin6_port;
		memcpy(words, &v6.sin6_addr, sizeof(v6.sin6_addr));
	}
}

static bool make_question(int fd, struct question *question)
{
	struct sockaddr_storage here = {0}, there = {0};
	socklen_t here_length = sizeof(here), there_length = sizeof(there);

	if (getsockname(fd, (struct sockaddr *)&here, &here_length) < 0 ||
	    getpeername(fd, (struct sockaddr *)&there, &there_length) < 0)
		return false;
	*question = (struct question){
		.header = {.nlmsg_len = sizeof(*question),
			   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			   .nlmsg_flags = NLM_F_REQUEST},
		.body = {.sdiag_family = (uint8_t)here.ss_family,
			 .sdiag_protocol = IPPROTO_TCP,
			 .idiag_states = UINT32_MAX,
			 .id.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}},
	};
	/* The other socket's own end is where this one's connection comes from. */
	set_end(&there, &question->body.id.idiag_sport, question->body.id.idiag_src);
	set_end(&here, &question->body.id.idiag_dport, question->body.id.idiag_dst);
	return true;
}

/* A socket that its process has closed is told as root's; it has no inode then, which the kernel
 * looks up last. */
static bool read_answer(int netlink, uid_t *uid)
{
	_Alignas(struct nlmsghdr) char bytes[4096];
	const struct nlmsghdr *header = (const void *)bytes;

	ssize_t length = recv(netlink, bytes, sizeof(bytes), 0);
	if (length < (ssize_t)NLMSG_LENGTH(sizeof(struct inet_diag_msg)) ||
	    header->nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return false;
	const struct inet_diag_msg *found = NLMSG_DATA(header);
	*uid = found->idiag_uid;
	return found->idiag_inode != 0;
}

bool kvx_network_peer(int fd, uid_t *uid)
{
	const struct timeval patience = {.tv_usec = 100000};
	struct question question;

	if (!make_question(fd, &question))
		return false;
	int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (netlink < 0)
		return false;
	setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	bool told = send(netlink, &question, sizeof(question), 0) == sizeof(question) &&
		    read_answer(netlink, uid);
	close(netlink);
	return told;
}
