/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of kvxferctl share. See docs/control-api.md for what it asks engines. */
#ifndef KVXFERCTL_H
#define KVXFERCTL_H

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <kvxfer/operate.h>

/* Exit statuses. */
enum { CTL_DONE, CTL_FAILED, CTL_USAGE, CTL_UNREACHED };

#define CTL_PLACES_MAX 16u
#define CTL_PATH_MAX 1024u
#define CTL_TEXT_MAX 1024u
#define CTL_ANSWER_MAX (64u << 20) /* bytes that are taken of an answer */
#define CTL_BODY_MAX (1u << 20)    /* bytes that an engine takes of a request */
#define CTL_WAIT_MS 60000u         /* that one request waits; longer waits are several */

enum ctl_option {
	/* of every command */
	CTL_SOCKET,
	CTL_URL,
	CTL_SECRET,
	CTL_JSON,
	CTL_HELP,
	CTL_VERSION,
	/* of some */
	CTL_AFTER,
	CTL_BLOCKS,
	CTL_CHUNK,
	CTL_COUNT,
	CTL_DEADLINE,
	CTL_DRAIN,
	CTL_FOLLOW,
	CTL_FROM,
	CTL_FROM_POOL,
	CTL_HELD,
	CTL_INTERVAL,
	CTL_LAYER,
	CTL_LEASE,
	CTL_PULL,      /* a ticket */
	CTL_PULL_MOVE, /* how to move */
	CTL_READY,
	CTL_SENDERS,
	CTL_TAIL,
	CTL_TICKET,
	CTL_TIMEOUT,
	CTL_TO,
	CTL_TO_BLOCKS,
	CTL_TO_POOL,
	CTL_TOKENS,
	CTL_VERIFY,
	CTL_WAIT,      /* or not */
	CTL_WAIT_TIME, /* and how long */
	CTL_OPTIONS
};

/* Where an engine listens. */
struct ctl_place {
	char name[CTL_PATH_MAX]; /* for errors: the path or the URL */
	char socket[108];        /* path of a unix socket; "": none, but */
	char url[320];           /* "https://host:port" */
	char token[KVX_TOKEN_MAX + 1], pinned[KVX_TOKEN_MAX + 1];
};

struct ctl_value {
	const char *text; /* NULL: not given */
	uint64_t number;  /* of those that are numbers; seconds are ms here */
};

/* A command line. */
struct ctl {
	const char *command; /* "grants open" */
	char **words;        /* the command's arguments */
	uint32_t word_count;
	struct ctl_value values[CTL_OPTIONS];
	const char *sockets[CTL_PLACES_MAX], *pulls[KVX_SENDERS_MAX]; /* may be several */
	uint32_t socket_count, pull_count;
	struct ctl_place places[CTL_PLACES_MAX];
	uint32_t place_count;
};

/* --- ctl_arguments.c --- */

struct ctl_command {
	const char *name, *arguments;
	uint32_t least, most; /* arguments */
	uint32_t places;      /* engines that it speaks to, at most */
	uint64_t options;     /* a bit for each enum ctl_option */
	int (*run)(struct ctl *ctl);
	const char *help;
};

/* All of them, in the order of --help; ended by a NULL name. */
extern const struct ctl_command ctl_commands[];

/* *command: NULL if everything is done already (--help). */
int ctl_arguments_read(struct ctl *ctl, int count, char **arguments,
		       const struct ctl_command **command);

static inline bool ctl_has(const struct ctl *ctl, enum ctl_option option)
{
	return ctl->values[option].text != NULL;
}

static inline uint64_t ctl_value(const struct ctl *ctl, enum ctl_option option, uint64_t initial)
{
	return ctl_has(ctl, option) ? ctl->values[option].number : initial;
}

/* --- ctl_help.c --- */

struct ctl_option_info {
	const char *name, *argument; /* "lease", "MS" */
	const char *help;
};

extern const struct ctl_option_info ctl_option_infos[CTL_OPTIONS];

void ctl_help(void);
void ctl_help_command(const struct ctl_command *command);

/* --- ctl_read.c: what stands in arguments; 0, or told on stderr --- */

bool ctl_read_number(const char *text, uint64_t low, uint64_t high, uint64_t *number);
int ctl_read_id(const char *what, const char *text, uint64_t *id);
int ctl_read_blocks(const char *text, json_t **blocks);
int ctl_read_tail(const char *text, json_t **tail);
/* The text, @FILE or - (stdin). To be freed. */
int ctl_read_ticket(const char *text, char **ticket);
/* The body of streams ready: "0-15", "all" or "tail". */
int ctl_read_layers(const char *text, json_t **body);

/* --- ctl_place.c --- */

/* place: a path of a socket or of a folder that holds one, or a URL. */
int ctl_place_find(const char *text, const char *secret_file, struct ctl_place *place);

/* The sockets of a folder, in order. False: it cannot be read. Each name and the array are to be
 * freed. */
bool ctl_place_list(const char *folder, char ***names, uint32_t *count);

/* --- ctl_http.c --- */

struct ctl_call {
	const struct ctl_place *place;
	const char *method;
	json_t *body; /* stolen; NULL: none */
	/* Takes the answer piece by piece, of any length; false: enough. NULL: it is kept. */
	bool (*sink)(void *context, const char *data, size_t size);
	void *context;
	uint32_t wait_ms;  /* that the engine may take its time */
	uint32_t limit_ms; /* and that it may be silent otherwise; 0: some seconds */
	bool raw;          /* the answer need not be JSON */
	bool stubborn;     /* ctl_stopped() does not end it */
	char path[CTL_PATH_MAX];

	/* What came of it. */
	char code[32];          /* "KVX_E_BUSY", if the engine said so */
	char why[CTL_TEXT_MAX]; /* unless done */
	int result;             /* CTL_DONE, CTL_FAILED, CTL_UNREACHED */
	long status;
	char *text;
	size_t size;
	json_t *answer; /* NULL: none */
};

int ctl_http_open(void);
void ctl_http_close(void);

/* All at the same time; returns when all have ended. */
void ctl_call_all(struct ctl_call *calls, uint32_t count);
void ctl_call_free(struct ctl_call *call);

/* One, with its path. body: stolen. Returns its result; a failure is told on stderr. */
__attribute__((format(printf, 4, 5))) int ctl_ask(struct ctl_call *call, const char *method,
						  json_t *body, const char *format, ...);

/* Waits for the end of what a path names, for timeout_ms in all, by GET with wait_ms and `more` of
 * the query. goes_on: whether an answer shows no end yet. Returns the call's result. */
int ctl_ask_wait(struct ctl_call *call, const char *path, const char *more, uint64_t timeout_ms,
		 bool (*goes_on)(const json_t *answer, const char *more));

/* Interrupts are caught from the first call on, and end calls and waits. */
void ctl_stop_catch(void);
bool ctl_stopped(void);

int64_t ctl_now_ns(void);

/* --- ctl_text.c: what is printed, without control characters --- */

struct ctl_short {
	char text[32];
};
struct ctl_short ctl_bytes(uint64_t bytes); /* "64.0 MiB" */
struct ctl_short ctl_time(uint64_t ms);     /* "2 min 5 s" */
struct ctl_short ctl_bar(uint64_t done, uint64_t all);

/* In place; returns text. */
char *ctl_clean(char *text);
/* The bytes of a text of at most that many columns. */
size_t ctl_cut(const char *text, uint32_t columns);
uint32_t ctl_columns(const char *text);

/* "kvxferctl: ..." on stderr; returns status. */
__attribute__((format(printf, 2, 3))) int ctl_fail(int status, const char *format, ...);
int ctl_fail_memory(void);

/* "name      value". */
__attribute__((format(printf, 3, 4))) void ctl_pair(FILE *file, const char *name,
						    const char *format, ...);
/* What an engine wrote, as it is; to a terminal without control characters. */
void ctl_write_raw(const char *text, size_t size);

/* The size of the terminal; false: stdout is none. */
bool ctl_terminal(uint32_t *columns, uint32_t *rows);

/* Of an object of an engine. "" and 0 for what is not there. */
const char *ctl_text(const json_t *object, const char *name);
uint64_t ctl_number(const json_t *object, const char *name);
bool ctl_flag(const json_t *object, const char *name);

/* --- ctl_table.c --- */

#define CTL_TABLE_COLUMNS_MAX 16u

/* Columns with titles; of one that begins with '>' the cells stand at the right. */
struct ctl_table {
	const char *const *titles; /* ended by NULL */
	char **cells;
	uint32_t columns, count, capacity;
	bool failed; /* out of memory */
};

void ctl_table_begin(struct ctl_table *table, const char *const *titles);
__attribute__((format(printf, 2, 3))) void ctl_table_add(struct ctl_table *table,
							 const char *format, ...);
/* Lines of at most `width` columns, 0: of any length; frees the table's cells. `indent` stands
 * before each line. */
void ctl_table_end(struct ctl_table *table, FILE *file, const char *indent, uint32_t width);
/* The same on stdout, cut to the terminal. */
void ctl_table_print(struct ctl_table *table);

/* --- ctl_show*.c: answers for people, on stdout --- */

void ctl_show_status(const json_t *answer);
void ctl_show_options(const json_t *answer, char **only, uint32_t count);
void ctl_show_topology(const json_t *answer);
void ctl_show_regions(const json_t *answer);
void ctl_show_pools(const json_t *answer);
void ctl_show_pool(const json_t *answer);
void ctl_show_peers(const json_t *answer);
void ctl_show_peer(const json_t *answer);
void ctl_show_grants(const json_t *answer);
void ctl_show_grant(const json_t *answer);
void ctl_show_streams(const json_t *answer);
void ctl_show_stream(const json_t *answer);
void ctl_show_drain(const json_t *answer);
const char *ctl_state_code(const json_t *transfer); /* "failed KVX_E_LEASE" without "failed" */

/* The answer of a call: its JSON, or by `show`. Frees it. Returns its result. */
int ctl_show(const struct ctl *ctl, struct ctl_call *call, void (*show)(const json_t *answer));

/* --- the commands --- */

int ctl_status(struct ctl *ctl);
int ctl_options(struct ctl *ctl);
int ctl_topology(struct ctl *ctl);
int ctl_regions(struct ctl *ctl);
int ctl_pools(struct ctl *ctl);
int ctl_checksum(struct ctl *ctl);
int ctl_peers(struct ctl *ctl);
int ctl_peers_connect(struct ctl *ctl);
int ctl_peers_forget(struct ctl *ctl);
int ctl_drain(struct ctl *ctl);
int ctl_resume(struct ctl *ctl);
int ctl_metrics(struct ctl *ctl);
int ctl_get(struct ctl *ctl);
int ctl_credentials(struct ctl *ctl);
int ctl_grants(struct ctl *ctl);
int ctl_grants_open(struct ctl *ctl);
int ctl_grants_wait(struct ctl *ctl);
int ctl_grants_pull(struct ctl *ctl);
int ctl_grants_revoke(struct ctl *ctl);
int ctl_streams(struct ctl *ctl);
int ctl_streams_open(struct ctl *ctl);
int ctl_streams_ready(struct ctl *ctl);
int ctl_streams_wait(struct ctl *ctl);
int ctl_streams_cancel(struct ctl *ctl);
int ctl_offers_open(struct ctl *ctl);
int ctl_events(struct ctl *ctl);
int ctl_list(struct ctl *ctl);
int ctl_watch(struct ctl *ctl);
int ctl_move(struct ctl *ctl);

/* --- ctl_events.c --- */

/* Reads server-sent events, fed in pieces. */
struct ctl_sse {
	void (*event)(void *context, const char *type, const char *data);
	void *context;
	char line[8192], data[8192], type[64];
	size_t line_bytes, data_bytes;
};
void ctl_sse_feed(struct ctl_sse *sse, const char *text, size_t size);

/* "17  12:31:20.123  layer_whole  grant 12 layer 3", or that some are missing. */
void ctl_event_line(const char *type, const json_t *data, char *line, size_t size);

#endif
