/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of verbs on its control connection: what decodes is encoded, decoded and encoded again
 * as the same. */
#include "target.h"

#include "verbs/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct kvx_verbs_message message, again;
	uint8_t first[KVX_VERBS_MESSAGE_MAX], second[KVX_VERBS_MESSAGE_MAX];

	if (size > KVX_VERBS_MESSAGE_MAX || kvx_verbs_decode(&message, bytes, (uint32_t)size))
		return 0;
	if (message.type == KVX_VERBS_PORTS && message.version != KVX_VERBS_VERSION)
		return 0; /* refused by its version; its fields are not read */
	uint32_t length = kvx_verbs_encode(&message, first);
	fuzz_require(length == size, "type %d: %zu bytes came, %u were encoded", (int)message.type,
		     size, length);
	fuzz_require(kvx_verbs_decode(&again, first, length) == 0, "%s", kvx_error_text());
	fuzz_require(kvx_verbs_encode(&again, second) == length &&
			     memcmp(first, second, length) == 0,
		     "type %d does not stay what it is", (int)message.type);
	return 0;
}

/* --- seeds --- */

static void give(fuzz_take *take, const char *name, const struct kvx_verbs_message *message)
{
	uint8_t bytes[KVX_VERBS_MESSAGE_MAX];

	take(name, bytes, kvx_verbs_encode(message, bytes));
}

void fuzz_give_seeds(fuzz_take *take)
{
	static const char *const names[] = {"engine", "ports", "ask",  "answer",
					    "ready",  "link",  "keys", "broken"};
	struct kvx_verbs_message message = {
		.version = KVX_VERBS_VERSION,
		.count = 2,
		.ports = {{0}, {0}},
		.rail = 1,
		.rails = 2,
		.qpn = 17,
		.end = {.qpn = 18, .psn = 5, .mtu = IBV_MTU_1024, .reads_out = 1, .reads_in = 1},
		.slot = 3,
		.generation = 1,
		.memories = 2,
		.pieces = 4,
		.chunk_shift = 30,
		.keys = {{0, 0, 0, 4096, 1}, {1, 1, 3, 8192, 2}},
		.text = "why",
	};

	for (int type = KVX_VERBS_PORTS; type <= KVX_VERBS_BROKEN; type++) {
		message.type = (enum kvx_verbs_message_type)type;
		give(take, names[type], &message);
	}
	message.type = KVX_VERBS_ANSWER;
	message.refused = true;
	give(take, "answer-refused", &message);
}
