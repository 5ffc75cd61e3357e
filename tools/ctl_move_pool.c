/* SPDX-License-Identifier: Apache-2.0 */
/* What a move has to know of the two engines: pools, checksums, and what lies between. */
#include "ctl_move.h"

#include <string.h>

/* --- pools --- */

static int choose(const struct ctl *ctl, struct move_end *end, enum ctl_option option,
		  const json_t *pools)
{
	uint64_t wanted = ctl_value(ctl, option, 0);
	const char *name = ctl_option_infos[option].name;
	const json_t *pool, *found = NULL;
	size_t i;

	json_array_foreach(pools, i, pool)
	{
		if (!wanted || ctl_number(pool, "id") == wanted)
			found = pool;
	}
	if (!found && wanted)
		return ctl_fail(CTL_FAILED, "%s: has no pool %" PRIu64, end->place.name, wanted);
	if (!found)
		return ctl_fail(CTL_FAILED, "%s: has no pool", end->place.name);
	if (!wanted && json_array_size(pools) > 1)
		return ctl_fail(CTL_USAGE, "%s: has %zu pools: name one by --%s", end->place.name,
				json_array_size(pools), name);
	end->pool = ctl_number(found, "id");
	end->geometry = json_incref(json_object_get(found, "geometry"));
	return 0;
}

int move_find_pool(const struct ctl *ctl, struct move_end *end, enum ctl_option option)
{
	struct ctl_call call = {0};
	int status = move_ask(end, &call, "GET", NULL, "/v1/pools");

	if (!status)
		status = choose(ctl, end, option, json_object_get(call.answer, "pools"));
	ctl_call_free(&call);
	return status;
}

/* --- checksums --- */

int move_check_alike(const struct move *move)
{
	static const char *const fields[] = {
		"layers",      "planes", "block_bytes", "block_tokens", "dtype",
		"layer_first", "layout", "heads",       "head_first",   "head_bytes",
		"head_stride", "extra",  "token_stride"};

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		if (!json_equal(json_object_get(move->from.geometry, fields[i]),
				json_object_get(move->to.geometry, fields[i])))
			return ctl_fail(CTL_USAGE,
					"--verify: the two pools are not alike (%s), so that their "
					"checksums cannot be compared",
					fields[i]);
	return 0;
}

static int checksum(struct move_end *end, struct ctl_call *call)
{
	char path[CTL_PATH_MAX];

	snprintf(path, sizeof(path), "/v1/pools/%" PRIu64 "/checksum", end->pool);
	return move_ask(end, call, "POST", json_pack("{sO}", "blocks", end->blocks), path);
}

static int compare(struct move *move, const json_t *from, const json_t *to)
{
	const json_t *sum;
	size_t i;

	if (!json_array_size(from) || json_array_size(from) != json_array_size(to))
		return ctl_fail(CTL_FAILED, "the two ends told checksums of %zu and %zu layers",
				json_array_size(from), json_array_size(to));
	json_array_foreach(from, i, sum)
	{
		const json_t *other = json_array_get(to, i);
		if (!json_equal(sum, other))
			return ctl_fail(CTL_FAILED,
					"layer %zu differs: its checksum is %s at the sender, %s "
					"at the receiver",
					i, json_string_value(sum), json_string_value(other));
	}
	move->layers_verified = json_array_size(from);
	return 0;
}

int move_verify(struct move *move)
{
	struct ctl_call from = {0}, to = {0};
	int status = checksum(&move->from, &from);

	if (!status)
		status = checksum(&move->to, &to);
	if (!status)
		status = compare(move, json_object_get(from.answer, "checksums"),
				 json_object_get(to.answer, "checksums"));
	ctl_call_free(&from);
	ctl_call_free(&to);
	return status;
}

/* --- what lies between --- */

/* The transport of the peer of that incarnation: who pushes has connected to it, and whose offer is
 * pulled was connected to. */
static void find(struct move_end *end, const char *incarnation, const char *direction, char *text,
		 size_t size)
{
	struct ctl_call call = {0};
	const json_t *peer;
	size_t i;

	move_ask(end, &call, "GET", NULL, "/v1/peers");
	json_array_foreach(json_object_get(call.answer, "peers"), i, peer)
	{
		if (incarnation[0] && strcmp(ctl_text(peer, "incarnation"), incarnation) == 0 &&
		    strcmp(ctl_text(peer, "direction"), direction) == 0)
			snprintf(text, size, "%s", ctl_text(peer, "transport"));
	}
	ctl_call_free(&call);
}

void move_find_transport(struct move *move)
{
	char *text = move->transport;

	find(&move->from, ctl_text(move->from.last, "receiver_incarnation"), "outgoing", text,
	     sizeof(move->transport));
	if (!text[0])
		find(&move->to, ctl_text(move->to.last, "sender_incarnation"), "incoming", text,
		     sizeof(move->transport));
}
