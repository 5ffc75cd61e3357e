/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-doctor: its parts among themselves. They see the public headers alone. */
#ifndef KVX_TOOLS_DOCTOR_H
#define KVX_TOOLS_DOCTOR_H

#include <jansson.h>
#include <kvxfer/doctor.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

#define DOCTOR_OPTIONS_MAX 64u
#define DOCTOR_RAILS_MAX 33u /* tcp, and 32 ports */
#define DOCTOR_NAME_MAX 95u
#define DOCTOR_TEXT_MAX KVX_FINDING_TEXT_MAX

struct doctor_finding {
	enum kvx_severity severity;
	char area[DOCTOR_NAME_MAX + 1];
	char found[DOCTOR_TEXT_MAX + 1];
	char action[DOCTOR_TEXT_MAX + 1];
};

/* A rail to the peer that was measured. */
struct doctor_rail {
	char name[DOCTOR_NAME_MAX + 1]; /* "tcp", "verbs mlx5_0:1" */
	double gbytes_per_s;            /* 0: it could not be */
};

struct doctor {
	const char *secret, *peer, *listen, *json;
	bool unauthenticated_network;
	const char *option_texts[DOCTOR_OPTIONS_MAX]; /* "NAME=VALUE" */
	uint32_t option_count;

	struct doctor_finding *findings;
	uint32_t finding_count;
	bool lost; /* there was no memory for a finding */
	struct doctor_rail rails[DOCTOR_RAILS_MAX];
	uint32_t rail_count;
	uint32_t path_mtu; /* to the peer, bytes; 0: not known */
};

/* -------------------------------------------------------------------------------- doctor.c */

/* Adds a finding. */
void doctor_tell(struct doctor *doctor, enum kvx_severity severity, const char *area,
		 const char *action, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* A new set of the engine's options, as the command line has them. NULL: kvx_error_text(). */
struct kvx_options *doctor_options(const struct doctor *doctor);

enum kvx_severity doctor_worst(const struct doctor *doctor);

/* Each writes all findings and returns 0, or 1 if that failed. */
int doctor_write_text(const struct doctor *doctor, FILE *file); /* doctor_text.c */
int doctor_write_json(const struct doctor *doctor, FILE *file); /* doctor_json.c */

/* ------------------------------------------------------------ doctor_net.c: lines of JSON */

#define DOCTOR_LINE_MAX 65536u

/* A connection that carries a JSON object on each line. */
struct doctor_channel {
	int fd;
	size_t line_max; /* bytes of a line that the other side may send */
	size_t used;
	char why[DOCTOR_TEXT_MAX + 1]; /* what failed last */
	char buffer[DOCTOR_LINE_MAX];
};

int64_t doctor_now_ms(void);

/* "HOST:PORT", IPv6 in brackets. Both return a socket, or -1 with the reason in why. */
int doctor_connect(const char *address, int timeout_ms, char why[DOCTOR_TEXT_MAX + 1]);
int doctor_listen_at(const char *address, bool is_network_allowed, char why[DOCTOR_TEXT_MAX + 1]);

/* The address of a socket's own end, or of its other end, without a port. */
void doctor_host_of(int fd, bool is_other, char *host, size_t size);

/* Takes the message over; NULL is a failure. Returns 0 or -1. */
int doctor_send(struct doctor_channel *channel, json_t *message);

/* The next object. beside: a descriptor that ready(context) is called for while it waits, or -1.
 * NULL: nothing came in time, or what came is none. */
struct doctor_beside {
	int fd;
	void (*ready)(void *context);
	void *context;
};
json_t *doctor_receive(struct doctor_channel *channel, int timeout_ms,
		       const struct doctor_beside *beside);

/* A text of the other side's, cut to size, with '?' for what is not printable ASCII. */
void doctor_text_of(const json_t *message, const char *key, char *text, size_t size);

/* ------------------------------------------------------------------ doctor_path.c: path MTU */

#define DOCTOR_TOKEN_CHARACTERS 16u

/* What answers probes during a session, to who began it. */
struct doctor_echo {
	int fd;
	uint16_t port;
	struct sockaddr_storage peer; /* whose address counts */
	char token[DOCTOR_TOKEN_CHARACTERS + 1];
};
int doctor_echo_open(struct doctor_echo *echo, int session);
void doctor_echo_answer(void *context); /* the echo */
void doctor_echo_close(struct doctor_echo *echo);

struct doctor_path {
	uint32_t local; /* what the kernel takes for the path's MTU, bytes; 0: not known */
	uint32_t found; /* of the packets tried the largest that passed; 0: none did */
};
int doctor_path_try(int session, uint16_t port, const char *token, struct doctor_path *path);

/* -------------------------------------------------------------- doctor_move.c: both ends */

#define DOCTOR_BLOCKS 64u
#define DOCTOR_BLOCK_BYTES (1u << 20)

/* An engine of one transport, with a pool. */
struct doctor_end {
	struct kvx_engine *engine;
	struct kvx_pool *pool;
	struct kvx_grant *grant; /* of the listener */
};

/* Takes options over. Returns 0 or a code of enum kvx_error, with its text. */
int doctor_end_open(struct doctor_end *end, struct kvx_options *options);
void doctor_end_close(struct doctor_end *end);

/* A ticket for that many blocks, in hexadecimal, to be freed; the grant before it is closed. NULL:
 * kvx_error_text(). */
char *doctor_end_grant(struct doctor_end *end, uint32_t blocks);

/* Sends blocks to the grant of a ticket. Returns 0 and the time, or a code with its text. */
int doctor_end_send(const struct doctor_end *end, const char *ticket, uint32_t blocks,
		    double *seconds, char *explained, size_t size);

/* ------------------------------------------------------------------------- the two programs */

void doctor_peer_check(struct doctor *doctor);      /* doctor_peer.c: asks doctor->peer */
int doctor_listen_run(const struct doctor *doctor); /* doctor_listen.c: answers; exit status */

#endif
