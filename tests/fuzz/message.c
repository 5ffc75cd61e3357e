/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of engines: what decodes is encoded again as the bytes that came. */
#include "target.h"

#include "core/message.h"
#include "plan/shape.h"

#include <kvxfer/kvxfer.h>

#define CODE_AT 9u /* of REFUSE, REVOKE and DECLINE: behind the type and the stream */

static int has_code(const struct kvx_message *message)
{
	return message->type == KVX_MESSAGE_REFUSE || message->type == KVX_MESSAGE_REVOKE ||
	       message->type == KVX_MESSAGE_DECLINE;
}

static void expect_same(const struct kvx_message *message, const uint8_t *bytes, size_t size)
{
	uint8_t again[KVX_MESSAGE_MAX], wanted[KVX_MESSAGE_MAX];
	uint32_t length = kvx_message_encode(message, again);

	memcpy(wanted, bytes, size);
	if (has_code(message)) /* one that is not known becomes another */
		wanted[CODE_AT] = (uint8_t)-message->code;
	fuzz_require(length == size && memcmp(again, wanted, size) == 0,
		     "type %d: %zu bytes came, %u were encoded", (int)message->type, size, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct kvx_message message;

	if (size > KVX_MESSAGE_MAX) {
		/* No transport hands up more than this, but a control connection of tcp. */
		(void)kvx_message_decode(&message, bytes, (uint32_t)size);
		return 0;
	}
	if (kvx_message_decode(&message, bytes, (uint32_t)size)) {
		fuzz_require(kvx_error_text()[0], "an error without a text");
		return 0;
	}
	if (message.type != KVX_MESSAGE_HELLO || message.version == KVX_PROTOCOL_VERSION)
		expect_same(&message, bytes, size);
	if (message.type == KVX_MESSAGE_OPEN) {
		struct kvx_shape shape;
		kvx_shape_of(&message.geometry, &shape);
		(void)kvx_geometry_hash(&message.geometry);
		fuzz_require(kvx_geometry_match(&message.geometry, &message.geometry) == 0, "%s",
			     kvx_error_text());
	}
	return 0;
}

/* --- seeds --- */

static void give(fuzz_take *take, const char *name, const struct kvx_message *message)
{
	uint8_t bytes[KVX_MESSAGE_MAX];

	take(name, bytes, kvx_message_encode(message, bytes));
}

static void give_opens(fuzz_take *take)
{
	struct kvx_message open = {
		.type = KVX_MESSAGE_OPEN, .stream = 1, .generation = 1, .key = 2, .units = 2};
	struct kvx_geometry whole = {.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 4096};
	struct kvx_geometry heads = {.layers = 2,
				     .planes = 2,
				     .blocks = 8,
				     .block_tokens = 16,
				     .dtype = "bf16",
				     .layout = KVX_LAYOUT_HND,
				     .heads = 2,
				     .head_first = 2,
				     .heads_total = 8,
				     .head_bytes = 64,
				     .extra_planes = 1,
				     .extra = {{.token_bytes = 8}}};

	(void)kvx_geometry_complete(&whole, &open.geometry);
	give(take, "open", &open);
	(void)kvx_geometry_complete(&heads, &open.geometry);
	open.weighted = open.tail = true;
	open.weights[0] = 3;
	open.weights[1] = 255;
	give(take, "open-heads", &open);
	heads.layout = KVX_LAYOUT_NHD;
	(void)kvx_geometry_complete(&heads, &open.geometry);
	give(take, "open-tokens", &open);
}

void fuzz_give_seeds(fuzz_take *take)
{
	give_opens(take);
	give(take, "hello",
	     &(struct kvx_message){.type = KVX_MESSAGE_HELLO,
				   .version = KVX_PROTOCOL_VERSION,
				   .incarnation = 7,
				   .heartbeat_ms = 1000,
				   .text = "engine"});
	give(take, "hello-newer",
	     &(struct kvx_message){.type = KVX_MESSAGE_HELLO,
				   .version = KVX_PROTOCOL_VERSION + 1,
				   .incarnation = 7,
				   .heartbeat_ms = 1000,
				   .text = "engine"});
	give(take, "accept",
	     &(struct kvx_message){.type = KVX_MESSAGE_ACCEPT,
				   .stream = 1,
				   .planes = 2,
				   .share = {.layers = 4,
					     .plane = {{.heads = 1, .token_end = 64},
						       {.heads = 1, .token_end = 64}}},
				   .hash = 9});
	for (int type = KVX_MESSAGE_REFUSE; type <= KVX_MESSAGE_DECLINE; type++) {
		static const char *const names[] = {"refuse", "whole",   "revoke", "cancel",
						    "ping",   "bye",     "layout", "drained",
						    "pull",   "release", "decline"};
		give(take, names[type - KVX_MESSAGE_REFUSE],
		     &(struct kvx_message){.type = (enum kvx_message_type)type,
					   .stream = 1,
					   .slot = 3,
					   .generation = 1,
					   .key = 5,
					   .first = 0,
					   .count = 2,
					   .layout = {{1, 0, 4096, 8192, 4096}, {2, 1, 0, 64, 64}},
					   .part_bytes = 4,
					   .part = "KVXT",
					   .code = KVX_E_LEASE,
					   .text = "why"});
	}
}
