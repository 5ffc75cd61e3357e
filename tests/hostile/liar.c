/* SPDX-License-Identifier: Apache-2.0 */
/*
 *	hostile-liar ADDRESS SEED [mappings | addresses]
 *
 * Attacks the engine of that address, which has both tcp and shm, until the end of stdin. Lines
 * there are tickets of grants, in hexadecimal digits: the newest one lives. At the end, a line for
 * each attack: how often; and the connections and messages of all. With a third argument
 * there is one attack, liar_fill(), and a line when it has done its worst.
 */
#include "hostile/liar.h"

#include "support/chance.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ATTACKS_MAX 64u

static struct attack attacks[ATTACKS_MAX];
static uint64_t rounds[ATTACKS_MAX];
static uint32_t attack_count;

static void collect(const struct attack *table)
{
	for (; table->name; table++)
		attacks[attack_count++] = *table;
}

/* "shm:NAME@BOOT,tcp:127.0.0.1:4711" */
static bool read_address(struct liar *liar, const char *address)
{
	const char *tcp = strstr(address, "tcp:"), *shm = strstr(address, "shm:");
	const char *port = tcp ? strchr(tcp + 4, ':') : NULL;

	if (!port || !shm)
		return false;
	liar->tcp = (struct sockaddr_in){.sin_family = AF_INET,
					 .sin_port = htons((uint16_t)atoi(port + 1)),
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	size_t length = strcspn(shm + 4, "@,");
	if (length >= sizeof(liar->unix_.sun_path))
		return false;
	liar->unix_.sun_family = AF_UNIX;
	memcpy(liar->unix_.sun_path + 1, shm + 4, length);
	liar->unix_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
	return true;
}

static void read_ticket(struct liar *liar, const char *digits)
{
	static uint8_t bytes[1 << 16];
	struct kvx_ticket *place = &liar->tickets[liar->ticket_count % TICKETS_KEPT];
	size_t length = strspn(digits, "0123456789abcdef") / 2;

	if (length > sizeof(bytes))
		return;
	for (size_t i = 0; i < length; i++)
		sscanf(digits + 2 * i, "%2hhx", &bytes[i]);
	if (liar->ticket_count >= TICKETS_KEPT)
		kvx_ticket_finish(place);
	if (kvx_ticket_decode(place, KVX_TICKET_GRANT, bytes, length) == 0)
		liar->ticket_count++;
	else
		fprintf(stderr, "not a ticket: %s\n", kvx_error_text());
}

/* False: the end. */
static bool read_tickets(struct liar *liar)
{
	struct pollfd news = {.fd = STDIN_FILENO, .events = POLLIN};
	char *line = NULL;
	size_t size = 0;
	bool goes_on = true;

	while (goes_on && poll(&news, 1, 0) > 0) {
		goes_on = getline(&line, &size, stdin) > 0;
		if (goes_on)
			read_ticket(liar, line);
	}
	free(line);
	return goes_on;
}

int main(int count, char **arguments)
{
	static struct liar liar;

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdin, NULL, _IONBF, 0);
	if (count < 3 || !read_address(&liar, arguments[1]))
		return 2;
	liar.random = strtoull(arguments[2], NULL, 10) | 1;
	memset(liar.held, -1, sizeof(liar.held));
	if (count > 3)
		return liar_fill(&liar, arguments[3][0] == 'a', read_tickets) ? 0 : 1;
	collect(attacks_on_doors);
	collect(attacks_by_messages);
	collect(attacks_by_frames);
	collect(attacks_by_rings);
	while (read_tickets(&liar)) {
		uint32_t drawn = liar_draw(&liar, attack_count);
		attacks[drawn].run(&liar);
		rounds[drawn]++;
		liar_drip(&liar);
	}
	for (uint32_t i = 0; i < attack_count; i++)
		printf("%" PRIu64 " %s\n", rounds[i], attacks[i].name);
	printf("%" PRIu64 " connections\n%" PRIu64 " messages\n", liar.connections, liar.messages);
	return 0;
}
