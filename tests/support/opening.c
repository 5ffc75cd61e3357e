/* SPDX-License-Identifier: Apache-2.0 */
#include "support/opening.h"

#include "plan/plan.h"

struct kvx_message opening_of(const struct kvx_ticket *ticket, uint64_t stream, uint32_t units)
{
	uint64_t table_hash = kvx_table_hash(ticket->table, ticket->count);
	struct kvx_shape shape;
	struct kvx_share share;
	struct kvx_image image;

	kvx_shape_of(&ticket->geometry, &shape);
	kvx_share_alone(&shape, &shape, ticket->token_first, ticket->token_end, &share);
	kvx_image_make(&image, &shape, &shape, &share, ticket->token_first, ticket->token_end);
	kvx_image_cut(&image, units, NULL);
	return (struct kvx_message){
		.type = KVX_MESSAGE_OPEN,
		.stream = stream,
		.slot = ticket->slot,
		.generation = ticket->generation,
		.key = ticket->key,
		.units = units,
		.hash = kvx_plan_hash(&ticket->geometry, &image, &share, table_hash),
		.geometry = ticket->geometry};
}
