/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: JSON, text, and problem details (RFC 9457). */
#include "control/server.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	unsigned status;
	int code;
} statuses[] = {
	{400, KVX_E_INVALID},   {400, KVX_E_TICKET},         {409, KVX_E_BUSY},
	{409, KVX_E_GEOMETRY},  {409, KVX_E_VERSION},        {409, KVX_E_CANCELLED},
	{409, KVX_E_REVOKED},   {409, KVX_E_LEASE},          {409, KVX_E_REFUSED},
	{429, KVX_E_LIMIT},     {500, KVX_E_SYSTEM},         {501, KVX_E_UNSUPPORTED},
	{502, KVX_E_PEER_LOST}, {502, KVX_E_PEER_RESTARTED}, {502, KVX_E_UNREACHABLE},
	{502, KVX_E_PROTOCOL},  {502, KVX_E_TRANSPORT},      {503, KVX_E_DRAINING},
	{503, KVX_E_MEMORY},    {504, KVX_E_TIMEDOUT},
};

unsigned kvx_status_of(int code)
{
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].code == code)
			return statuses[i].status;
	return 500;
}

/* --- the body --- */

/* An engine's text may quote bytes of a peer that are no UTF-8. */
static json_t *make_text(const char *text)
{
	char plain[KVX_ERROR_TEXT_MAX + 1];
	json_t *made = json_string(text);

	if (made)
		return made;
	snprintf(plain, sizeof(plain), "%s", text);
	for (char *c = plain; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return json_string(plain);
}

char *kvx_problem_text(unsigned status, int code, const char *detail)
{
	json_t *problem =
		json_pack("{ss ss si so* ss ss}", "type", "about:blank", "title",
			  kvx_strerror(code), "status", (int)status, "detail", make_text(detail),
			  "code", kvx_error_name(code), "broken", kvx_error_broken(code));
	char *text = problem ? json_dumps(problem, JSON_COMPACT) : NULL;

	json_decref(problem);
	return text;
}

/* --- the answer --- */

/* text: to be freed, ours from here on; NULL: no memory for it. */
static void answer(struct kvx_exchange *exchange, unsigned status, const char *type, char *text,
		   size_t bytes)
{
	static char none[1];
	struct MHD_Response *response =
		text ? MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE)
		     : MHD_create_response_from_buffer(0, none, MHD_RESPMEM_PERSISTENT);

	if (!response) {
		free(text);
		exchange->gone = true; /* the connection is closed */
		return;
	}
	if (bytes)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	exchange->response = response;
	exchange->status = text || !bytes ? status : MHD_HTTP_SERVICE_UNAVAILABLE;
}

static void answer_problem(struct kvx_exchange *exchange, unsigned status, int code,
			   const char *detail)
{
	char *text = kvx_problem_text(status, code, detail);

	if (exchange->response) {
		free(text);
		return;
	}
	answer(exchange, text ? status : MHD_HTTP_SERVICE_UNAVAILABLE, "application/problem+json",
	       text, text ? strlen(text) : 0);
}

/* Text of any length, as far as there is room for it. */
static void answer_counted(struct kvx_exchange *exchange, unsigned status, const char *type,
			   char *text, size_t bytes)
{
	if (!text || !kvx_exchange_charge(exchange, bytes)) {
		free(text);
		answer_problem(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_MEMORY,
			       "control: no memory for the answer; ask again later, or for less");
		return;
	}
	answer(exchange, status, type, text, bytes);
}

void kvx_answer(struct kvx_request *request, unsigned status, json_t *body)
{
	struct kvx_exchange *exchange = kvx_exchange_of(request);
	char *text = body && !exchange->response ? json_dumps(body, JSON_COMPACT) : NULL;

	if (!exchange->response && !body)
		answer(exchange, status, "", NULL, 0);
	else if (!exchange->response)
		answer_counted(exchange, status, "application/json", text, text ? strlen(text) : 0);
	json_decref(body);
}

void kvx_answer_text(struct kvx_request *request, const char *type, const char *text, size_t size)
{
	struct kvx_exchange *exchange = kvx_exchange_of(request);
	char *copy = exchange->response ? NULL : malloc(size + 1);

	if (exchange->response)
		return;
	if (copy)
		memcpy(copy, text, size);
	answer_counted(exchange, MHD_HTTP_OK, type, copy, size);
}

void kvx_answer_error(struct kvx_request *request, int code)
{
	answer_problem(kvx_exchange_of(request), kvx_status_of(code), code, kvx_error_text());
}

void kvx_answer_problem(struct kvx_request *request, unsigned status, int code, const char *format,
			...)
{
	char detail[KVX_ERROR_TEXT_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(detail, sizeof(detail), format, arguments);
	va_end(arguments);
	answer_problem(kvx_exchange_of(request), status, code, detail);
}

void kvx_answer_unknown(struct kvx_request *request, const char *what)
{
	kvx_answer_problem(request, MHD_HTTP_NOT_FOUND, KVX_E_INVALID,
			   "%s %llu: there is none of that id, or not any more", what,
			   (unsigned long long)request->id);
}
