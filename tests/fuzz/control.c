/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Routing, fields and handlers of the control socket, over any input, without a network: this file
 * stands in for the part of libmicrohttpd that a request sees. An input is
 *
 *	METHOD PATH[?NAME=VALUE&...]
 *	BODY
 *
 * and has to end with one answer. Headers are looked for among the query's parameters.
 */
#include "target.h"

#include "control/objects.h"
#include "control/server.h"

#define INPUTS_PER_ENGINE 2000u
#define ASKED_MAX 20u
#define TEXT_MAX 1024u
#define PAIRS_MAX 16u

/* The one request that there is at a time. */
static struct {
	char line[TEXT_MAX];
	const char *names[PAIRS_MAX], *values[PAIRS_MAX];
	unsigned pairs;
	unsigned answers;
	struct kvx_caller caller;
	union MHD_ConnectionInfo info;
} current;

static struct kvx_control control;

/* --- in place of libmicrohttpd's --- */

const char *MHD_lookup_connection_value(struct MHD_Connection *connection, enum MHD_ValueKind kind,
					const char *key)
{
	(void)connection;
	for (unsigned i = 0; i < current.pairs; i++)
		if (strcmp(current.names[i], key) == 0)
			return current.values[i];
	return kind == MHD_HEADER_KIND && strcmp(key, MHD_HTTP_HEADER_CONTENT_TYPE) == 0
		       ? "application/json"
		       : NULL;
}

const union MHD_ConnectionInfo *MHD_get_connection_info(struct MHD_Connection *connection,
							enum MHD_ConnectionInfoType what, ...)
{
	(void)connection;
	if (what == MHD_CONNECTION_INFO_CONNECTION_FD)
		current.info.connect_fd = -1;
	else
		current.info.socket_context = &current.caller;
	return &current.info;
}

enum MHD_Result MHD_set_connection_option(struct MHD_Connection *connection,
					  enum MHD_CONNECTION_OPTION option, ...)
{
	(void)connection;
	(void)option;
	return MHD_YES;
}

void MHD_suspend_connection(struct MHD_Connection *connection)
{
	(void)connection;
}

void MHD_resume_connection(struct MHD_Connection *connection)
{
	(void)connection;
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *connection, unsigned status,
				   struct MHD_Response *response)
{
	(void)connection;
	fuzz_require(status >= 200 && status <= 599 && response, "status %u", status);
	current.answers++;
	return MHD_YES;
}

/* --- an engine --- */

static void expect_ok(int error)
{
	fuzz_require(!error, "%s", kvx_error_text());
}

static void open_engine(void)
{
	const struct kvx_geometry geometry = {
		.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 256, .block_tokens = 16};
	static const char *const settings[][2] = {
		{"transports", "loop"}, {"name", "fuzz"}, {"control_retain_ms", "0"}};
	struct kvx_options *options;
	struct kvx_pool *pool;

	expect_ok(kvx_options_new(&options));
	for (unsigned i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		expect_ok(kvx_options_set(options, settings[i][0], settings[i][1]));
	control = (struct kvx_control){.wake_fd = -1, .local.fd = -1, .network.fd = -1};
	expect_ok(kvx_engine_open(options, &control.engine));
	expect_ok(kvx_pool_alloc(control.engine, &geometry, &pool));
	kvx_options_free(options);
	kvx_list_init(&control.held);
	kvx_list_init(&control.followers);
	pthread_mutex_init(&control.lock, NULL);
	pthread_cond_init(&control.changed, NULL);
	expect_ok(kvx_objects_open(control.engine, &control.objects));
}

static void close_engine(void)
{
	kvx_objects_close(control.objects);
	kvx_engine_close(control.engine);
	pthread_cond_destroy(&control.changed);
	pthread_mutex_destroy(&control.lock);
	control.engine = NULL;
}

/* --- an input --- */

/* Cuts the query off the path. */
static void read_query(char *path)
{
	char *rest = strchr(path, '?'), *pair;

	current.pairs = 0;
	if (!rest)
		return;
	*rest++ = 0;
	while (current.pairs < PAIRS_MAX && (pair = strsep(&rest, "&"))) {
		char *equals = strchr(pair, '=');
		if (!equals)
			continue;
		*equals = 0;
		current.names[current.pairs] = pair;
		current.values[current.pairs++] = equals + 1;
	}
}

/* A held request is asked again until something other than its deadline answers it, or it was
 * asked often enough. */
static void bring_to_an_end(struct kvx_exchange *exchange)
{
	for (unsigned i = 0; i < ASKED_MAX && exchange->suspended; i++)
		kvx_held_ask(&control, true);
	kvx_held_finish(&control);
}

static void serve(char *method, char *path, const char *body, size_t bytes)
{
	struct MHD_Connection *connection = (void *)&current;
	void *exchange = NULL;
	size_t size = 0;

	current.answers = 0;
	kvx_exchange_step(&control, connection, path, method, "HTTP/1.1", NULL, &size, &exchange);
	size = bytes;
	if (bytes && !current.answers)
		kvx_exchange_step(&control, connection, path, method, "HTTP/1.1", body, &size,
				  &exchange);
	size = 0;
	if (!current.answers)
		kvx_exchange_step(&control, connection, path, method, "HTTP/1.1", NULL, &size,
				  &exchange);
	if (!current.answers) {
		bring_to_an_end(exchange);
		kvx_exchange_step(&control, connection, path, method, "HTTP/1.1", NULL, &size,
				  &exchange);
	}
	fuzz_require(current.answers == 1, "%s: %u answers", path, current.answers);
	kvx_exchange_end(&control, connection, &exchange, MHD_REQUEST_TERMINATED_COMPLETED_OK);
	fuzz_require(!control.waiting && !control.bytes, "%s: something is left", path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned inputs;
	const char *text = (const char *)data;
	const char *end = size ? memchr(text, '\n', size) : NULL;
	size_t length = end ? (size_t)(end - text) : size;
	char *path;

	if (length >= sizeof(current.line))
		return 0;
	if (!control.engine)
		open_engine();
	memcpy(current.line, text, length);
	current.line[length] = 0;
	path = strchr(current.line, ' ');
	if (path)
		*path++ = 0;
	else
		path = current.line + length;
	read_query(path);
	serve(current.line, path, end ? end + 1 : NULL, end ? size - length - 1 : 0);
	kvx_engine_resume(control.engine);
	kvx_objects_tick(control.objects);
	if (++inputs % INPUTS_PER_ENGINE == 0)
		close_engine();
	return 0;
}

void fuzz_give_seeds(fuzz_take *take)
{
	static const char *const seeds[][2] = {
		{"status", "GET /v1/status\n"},
		{"options", "GET /v1/options\n"},
		{"change", "PATCH /v1/options\n{\"drain_ms\":\"200\"}"},
		{"topology", "GET /v1/topology\n"},
		{"regions", "GET /v1/regions\n"},
		{"pools", "GET /v1/pools\n"},
		{"pool", "GET /v1/pools/2\n"},
		{"checksum", "POST /v1/pools/2/checksum\n{\"blocks\":[0,1]}"},
		{"peers", "GET /v1/peers\n"},
		{"connect", "POST /v1/peers\n{\"address\":\"loop:1\"}"},
		{"peer", "GET /v1/peers/1?wait_ms=10\n"},
		{"forget", "DELETE /v1/peers/1\n"},
		{"grants", "GET /v1/grants\n"},
		{"grants-part", "GET /v1/grants?after=1&limit=2&progress=true\n"},
		{"grant", "POST /v1/grants\n"
			  "{\"pool\":2,\"blocks\":[3,4,5],\"lease_ms\":1000,\"tokens\":40,"
			  "\"held_blocks\":1,\"senders\":2}"},
		{"grant-pull", "POST /v1/grants\n"
			       "{\"pool\":2,\"blocks\":[6],\"lease_ms\":1000,\"pull\":[\"AAAA\"],"
			       "\"tail\":{\"region\":1,\"offset\":0,\"bytes\":64}}"},
		{"grant-layer", "GET /v1/grants/3?wait_ms=0&layer=1\n"},
		{"grant-tail", "GET /v1/grants/3?wait_ms=10&layer=tail\n"},
		{"revoke", "DELETE /v1/grants/3?wait_ms=10&drain_ms=1\n"},
		{"pull", "POST /v1/grants/3/pull\n{\"ticket\":\"AAAAAAAA\"}"},
		{"streams", "GET /v1/streams\n"},
		{"stream", "POST /v1/streams\n"
			   "{\"pool\":2,\"blocks\":[0,1],\"ticket\":\"AAAA\",\"chunk_tokens\":16,"
			   "\"ready\":true}"},
		{"offer", "POST /v1/offers\n"
			  "{\"pool\":2,\"blocks\":[0,1],\"lease_ms\":1000,\"ready\":false}"},
		{"stream-one", "GET /v1/streams/4\n"},
		{"ready-tokens",
		 "POST /v1/streams/4/ready\n{\"first\":0,\"count\":4,\"tokens\":16}"},
		{"ready-all", "POST /v1/streams/4/ready\n{\"all\":true}"},
		{"ready-tail", "POST /v1/streams/4/ready\n{\"tail\":true}"},
		{"cancel", "DELETE /v1/streams/4?wait_ms=10\n"},
		{"drain", "GET /v1/drain?wait_ms=10\n"},
		{"drain-begin", "POST /v1/drain\n{\"deadline_ms\":1000}"},
		{"resume", "DELETE /v1/drain\n"},
		{"events", "GET /v1/events?after=3&follow=false\n"},
		{"events-last", "GET /v1/events?Last-Event-ID=7\n"},
		{"metrics", "GET /metrics\n"},
	};

	for (unsigned i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
		take(seeds[i][0], seeds[i][1], strlen(seeds[i][1]));
}
