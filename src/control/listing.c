/* SPDX-License-Identifier: Apache-2.0 */
#include "control/listing.h"

#include "control/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 4096u         /* bytes that are made and sent at once */
#define ROOM 512u           /* bytes for an entry to begin with; layers take more */
#define CHARGED (32u << 10) /* bytes of one with as many layers as there can be */
#define LIMIT_MAX 65536u    /* entries of an answer: as many streams as there can be */
#define PROGRESS_MAX 256u   /* the same, with their layers */

/* One list on its way to a client. */
struct sending {
	struct kvx_listing listing;
	const char *name;
	kvx_listed *next;
	uint64_t after, left; /* the last entry that was told; how many more are wanted */
	bool begun, first, ended, failed;
	char *text; /* being sent: begin..length */
	size_t begin, length, room;
};

/* --- the text --- */

static bool make_room(struct sending *sending, size_t bytes)
{
	char *text = bytes > sending->room ? realloc(sending->text, bytes) : sending->text;

	if (!text)
		return false;
	sending->text = text;
	sending->room = bytes > sending->room ? bytes : sending->room;
	return true;
}

static void write_begin(struct sending *sending)
{
	sending->length =
		(size_t)snprintf(sending->text, sending->room, "{\"%s\":[", sending->name);
	sending->begun = true;
}

/* entry: NULL: there was no memory for it. */
static bool write_entry(struct sending *sending, const json_t *entry, bool first)
{
	size_t bytes = entry ? json_dumpb(entry, NULL, 0, JSON_COMPACT) : 0;

	if (!bytes || !make_room(sending, bytes + 1))
		return false;
	sending->text[0] = ',';
	json_dumpb(entry, sending->text + 1, bytes, JSON_COMPACT);
	sending->begin = first;
	sending->length = bytes + 1;
	return true;
}

static void write_end(struct sending *sending, bool more)
{
	sending->length = (size_t)snprintf(sending->text, sending->room, "]%s}",
					   more ? ",\"more\":true" : "");
	sending->ended = true;
}

/* Makes the next piece of text. False: there is none, or no memory. */
static bool next_text(struct sending *sending)
{
	uint64_t id = sending->after;
	json_t *entry = NULL;

	sending->begin = sending->length = 0;
	if (!sending->begun) {
		write_begin(sending);
		return true;
	}
	if (sending->ended || sending->failed)
		return false;
	bool more = sending->next(&sending->listing, &id, &entry);
	if (more && sending->left) {
		sending->failed = !write_entry(sending, entry, sending->first);
		sending->first = false;
		sending->after = id;
		sending->left--;
	} else {
		write_end(sending, more);
	}
	json_decref(entry);
	return !sending->failed;
}

/* --- sending --- */

/* The client of a list that cannot go on sees it end before its end. */
static ssize_t read_more(void *context, uint64_t position, char *buffer, size_t room)
{
	struct sending *sending = context;
	size_t written = 0;

	(void)position;
	room = room < PIECE ? room : PIECE;
	while (written < room && (sending->begin < sending->length || next_text(sending))) {
		size_t bytes = sending->length - sending->begin;
		if (bytes > room - written)
			bytes = room - written;
		memcpy(buffer + written, sending->text + sending->begin, bytes);
		sending->begin += bytes;
		written += bytes;
	}
	if (written)
		return (ssize_t)written;
	return sending->failed ? MHD_CONTENT_READER_END_WITH_ERROR
			       : MHD_CONTENT_READER_END_OF_STREAM;
}

static void end(void *context)
{
	struct sending *sending = context;

	free(sending->text);
	free(sending);
}

/* --- the request --- */

static struct MHD_Response *begin(struct kvx_exchange *exchange, const struct sending *asked)
{
	struct sending *sending = malloc(sizeof(*sending));
	struct MHD_Response *response = NULL;

	if (!sending)
		return NULL;
	*sending = *asked;
	if (kvx_exchange_charge(exchange, CHARGED) && make_room(sending, ROOM))
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE, read_more,
							     sending, end);
	if (!response)
		end(sending);
	return response;
}

void kvx_listing_answer(struct kvx_request *request, const char *name, kvx_listed *next,
			bool progresses)
{
	struct kvx_exchange *exchange = kvx_exchange_of(request);
	struct sending sending = {.listing = {request->control, request->engine, false},
				  .name = name,
				  .next = next,
				  .first = true};

	if (progresses && !kvx_request_flag(request, "progress", false, &sending.listing.progress))
		return;
	uint64_t most = sending.listing.progress ? PROGRESS_MAX : LIMIT_MAX;
	if (!kvx_request_number(request, "after", 0, 0, INT64_MAX, &sending.after) ||
	    !kvx_request_number(request, "limit", most, 1, most, &sending.left))
		return;
	struct MHD_Response *response = begin(exchange, &sending);
	if (!response) {
		kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_MEMORY,
				   "control: no memory for the list; ask again later");
		return;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	exchange->response = response;
	exchange->status = MHD_HTTP_OK;
}
