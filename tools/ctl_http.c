/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to engines, several at a time, and what their failure means. */
#include "ctl.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONNECT_MS 5000L
#define LIMIT_MS 15000u
#define SILENCE_S 30L
#define STEP_MS 500

/* One request under way. */
struct transfer {
	struct ctl_call *call;
	CURL *easy;
	struct curl_slist *headers;
	char *body;
	char error[CURL_ERROR_SIZE];
	size_t capacity;
	bool is_enough, is_too_long;
};

static CURLM *multi; /* keeps connections open between calls */
static volatile sig_atomic_t is_stopped;

/* --- interrupts --- */

static void on_signal(int number)
{
	(void)number;
	is_stopped = 1;
}

void ctl_stop_catch(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = on_signal};

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
}

bool ctl_stopped(void)
{
	return is_stopped;
}

int64_t ctl_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

__attribute__((format(printf, 2, 3))) static void say(struct ctl_call *call, const char *format,
						      ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(call->why, sizeof(call->why), format, arguments);
	va_end(arguments);
}

/* --- the body of an answer --- */

static bool keep(struct transfer *transfer, const char *data, size_t size)
{
	struct ctl_call *call = transfer->call;

	if (size > CTL_ANSWER_MAX - call->size) {
		transfer->is_too_long = true;
		return false;
	}
	if (call->size + size + 1 > transfer->capacity) {
		size_t capacity = 2 * (call->size + size + 1);
		char *text = realloc(call->text, capacity);
		if (!text)
			return false;
		call->text = text;
		transfer->capacity = capacity;
	}
	memcpy(call->text + call->size, data, size);
	call->size += size;
	call->text[call->size] = 0;
	return true;
}

/* What an error says is kept, also where the answer would go elsewhere. */
static size_t take(char *data, size_t one, size_t size, void *context)
{
	struct transfer *transfer = context;
	struct ctl_call *call = transfer->call;
	long status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	if (!call->sink || status >= 300)
		return keep(transfer, data, one * size) ? one * size : 0;
	if (call->sink(call->context, data, one * size))
		return one * size;
	transfer->is_enough = true;
	return 0;
}

/* --- setting up --- */

static int watch_for_stop(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	const struct ctl_call *call = context;

	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return is_stopped && !call->stubborn;
}

static bool append_header(struct transfer *transfer, const char *line)
{
	struct curl_slist *list = curl_slist_append(transfer->headers, line);

	if (list)
		transfer->headers = list;
	return list != NULL;
}

static bool set_body(struct transfer *transfer)
{
	CURL *easy = transfer->easy;

	transfer->body = json_dumps(transfer->call->body, JSON_COMPACT);
	if (!transfer->body || !append_header(transfer, "Content-Type: application/json") ||
	    !append_header(transfer, "Expect:"))
		return false;
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)strlen(transfer->body));
	return true;
}

/* Where to, and how it knows who it speaks with: no certificate tells that, but the key that the
 * secret gives. */
static bool set_place(struct transfer *transfer)
{
	const struct ctl_place *place = transfer->call->place;
	CURL *easy = transfer->easy;
	char url[sizeof(place->url) + CTL_PATH_MAX], line[64 + KVX_TOKEN_MAX];

	snprintf(url, sizeof(url), "%s%s", place->url, transfer->call->path);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	if (place->socket[0])
		curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, place->socket);
	if (!place->token[0])
		return true;
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_3);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
	curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
	curl_easy_setopt(easy, CURLOPT_PINNEDPUBLICKEY, place->pinned);
	snprintf(line, sizeof(line), "Authorization: Bearer %s", place->token);
	return append_header(transfer, line);
}

static void set_limits(struct transfer *transfer)
{
	const struct ctl_call *call = transfer->call;
	uint32_t limit_ms = call->limit_ms ? call->limit_ms : LIMIT_MS;
	CURL *easy = transfer->easy;

	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
			 limit_ms < CONNECT_MS ? (long)limit_ms : CONNECT_MS);
	if (call->sink) {
		curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
		curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, SILENCE_S);
	} else {
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)limit_ms + (long)call->wait_ms);
	}
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, watch_for_stop);
	curl_easy_setopt(easy, CURLOPT_XFERINFODATA, call);
}

static bool begin(struct transfer *transfer, struct ctl_call *call)
{
	CURL *easy = curl_easy_init();

	transfer->call = call;
	transfer->easy = easy;
	call->result = CTL_FAILED;
	say(call, "out of memory");
	if (!easy || !set_place(transfer) || (call->body && !set_body(transfer)))
		return false;
	if (transfer->body && strlen(transfer->body) > CTL_BODY_MAX) {
		say(call, "the request is longer than the %u bytes that an engine takes",
		    CTL_BODY_MAX);
		return false;
	}
	set_limits(transfer);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	return curl_multi_add_handle(multi, easy) == CURLM_OK;
}

/* --- what came of it --- */

static const char *why_no_connection(const struct ctl_place *place, long error)
{
	if (!place->socket[0])
		return "is an engine running there, with option control_listen?";
	if (error == EACCES || error == EPERM)
		return "be the engine's user, or root";
	if (error == ENOENT)
		return "is the engine running, with option control set to it?";
	return "the engine that made the socket has ended";
}

static void fail_connection(struct transfer *transfer, CURLcode code)
{
	struct ctl_call *call = transfer->call;
	long error = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_OS_ERRNO, &error);
	call->result = CTL_UNREACHED;
	switch (code) {
	case CURLE_COULDNT_CONNECT:
		say(call, "%s: %s: %s", call->place->name,
		    error ? strerror((int)error) : "no connection",
		    why_no_connection(call->place, error));
		break;
	case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
		say(call,
		    "%s: the engine's key is not that of this secret: give the cluster's "
		    "secret by --secret",
		    call->place->name);
		break;
	case CURLE_ABORTED_BY_CALLBACK:
		call->result = CTL_FAILED;
		say(call, "interrupted");
		break;
	case CURLE_OPERATION_TIMEDOUT:
		say(call, "%s: the engine does not answer", call->place->name);
		break;
	default:
		say(call, "%s: the connection has ended: %s", call->place->name,
		    transfer->error[0] ? transfer->error : curl_easy_strerror(code));
	}
}

static void fail_status(struct ctl_call *call)
{
	const char *detail = ctl_text(call->answer, "detail");

	/* Who is not let in has not reached the engine. */
	call->result = call->status == 401 || call->status == 403 ? CTL_UNREACHED : CTL_FAILED;
	snprintf(call->code, sizeof(call->code), "%s", ctl_text(call->answer, "code"));
	if (detail[0] && call->code[0])
		say(call, "%s (%s)", detail, call->code);
	else if (detail[0])
		say(call, "%s", detail);
	else
		say(call, "%s: answered with status %ld", call->place->name, call->status);
}

static void judge(struct transfer *transfer, CURLcode code)
{
	struct ctl_call *call = transfer->call;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &call->status);
	if (code == CURLE_WRITE_ERROR && transfer->is_enough)
		code = CURLE_OK;
	if (code == CURLE_WRITE_ERROR) {
		say(call, transfer->is_too_long ? "the answer is too long" : "out of memory");
		return;
	}
	if (code != CURLE_OK) {
		fail_connection(transfer, code);
		return;
	}
	/* Of a raw answer too, for what an error says. */
	if (call->text && (!call->raw || call->status >= 300))
		call->answer = json_loadb(call->text, call->size, 0, NULL);
	if (call->status < 200 || call->status >= 300) {
		fail_status(call);
		return;
	}
	if (!call->raw && call->size && !call->answer) {
		say(call, "%s: the answer is no JSON: is this an engine?", call->place->name);
		return;
	}
	call->result = CTL_DONE;
	call->why[0] = 0;
}

static void end(struct transfer *transfer)
{
	if (transfer->easy)
		curl_multi_remove_handle(multi, transfer->easy);
	curl_easy_cleanup(transfer->easy);
	curl_slist_free_all(transfer->headers);
	free(transfer->body);
	json_decref(transfer->call->body);
	transfer->call->body = NULL;
}

static void collect(void)
{
	struct CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(multi, &left))) {
		char *private;
		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
		judge((struct transfer *)(void *)private, message->data.result);
	}
}

void ctl_call_all(struct ctl_call *calls, uint32_t count)
{
	struct transfer *transfers = calloc(count, sizeof(*transfers));
	int running = 0;

	for (uint32_t i = 0; i < count; i++) {
		calls[i].result = CTL_FAILED;
		if (transfers)
			begin(&transfers[i], &calls[i]);
	}
	if (!transfers)
		return;
	do {
		if (curl_multi_perform(multi, &running) != CURLM_OK)
			break;
		collect();
		if (running)
			curl_multi_poll(multi, NULL, 0, STEP_MS, NULL);
	} while (running);
	for (uint32_t i = 0; i < count; i++)
		end(&transfers[i]);
	free(transfers);
}

void ctl_call_free(struct ctl_call *call)
{
	json_decref(call->answer);
	free(call->text);
	call->answer = NULL;
	call->text = NULL;
	call->size = 0;
}

int ctl_ask(struct ctl_call *call, const char *method, json_t *body, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(call->path, sizeof(call->path), format, arguments);
	va_end(arguments);
	call->method = method;
	call->body = body;
	if (length < 0 || length >= (int)sizeof(call->path)) {
		json_decref(body);
		call->body = NULL;
		return call->result = ctl_fail(CTL_USAGE, "the path is too long");
	}
	ctl_call_all(call, 1);
	if (call->result)
		ctl_fail(call->result, "%s", call->why);
	return call->result;
}

int ctl_ask_wait(struct ctl_call *call, const char *path, const char *more, uint64_t timeout_ms,
		 bool (*goes_on)(const json_t *answer, const char *more))
{
	int64_t end_ns = ctl_now_ns() + (int64_t)timeout_ms * 1000000, left_ns;
	int result;

	do {
		left_ns = end_ns - ctl_now_ns();
		uint64_t left_ms = left_ns > 0 ? (uint64_t)left_ns / 1000000 : 0;
		call->wait_ms = left_ms < CTL_WAIT_MS ? (uint32_t)left_ms : CTL_WAIT_MS;
		ctl_call_free(call);
		result = ctl_ask(call, "GET", NULL, "%s?wait_ms=%u%s%s", path, call->wait_ms,
				 more ? "&layer=" : "", more ? more : "");
	} while (!result && goes_on(call->answer, more) && end_ns > ctl_now_ns());
	return result;
}

int ctl_http_open(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
	multi = curl_multi_init();
	return multi ? 0 : ctl_fail_memory();
}

void ctl_http_close(void)
{
	curl_multi_cleanup(multi);
	curl_global_cleanup();
}
