/* SPDX-License-Identifier: Apache-2.0 */
#include "round.h"

#include <stdlib.h>

int kvx_rotation_init(struct kvx_rotation *rotation, uint32_t slots)
{
	*rotation = (struct kvx_rotation){
		.free_slots = malloc(slots * sizeof(*rotation->free_slots)),
		.payloads = calloc(slots, sizeof(*rotation->payloads)),
		.count = slots,
	};
	if (!rotation->free_slots || !rotation->payloads) {
		kvx_rotation_finish(rotation);
		return kvx_failure_set("sender: no memory for %u slots", slots);
	}
	for (uint32_t i = 0; i < slots; i++)
		rotation->free_slots[i] = i;
	return 0;
}

void kvx_rotation_finish(struct kvx_rotation *rotation)
{
	free(rotation->free_slots);
	free(rotation->payloads);
	*rotation = (struct kvx_rotation){0};
}

uint32_t kvx_rotation_ahead(const struct kvx_rotation *rotation, uint32_t index)
{
	return rotation->free_slots[(rotation->head + index) % rotation->count];
}

uint32_t kvx_rotation_take(struct kvx_rotation *rotation)
{
	uint32_t slot = rotation->free_slots[rotation->head];

	rotation->head = (rotation->head + 1) % rotation->count;
	rotation->used++;
	return slot;
}

void kvx_rotation_give_back(struct kvx_rotation *rotation, uint32_t slot)
{
	/* The ring's free part ends where its used part began. */
	uint32_t tail = (rotation->head + rotation->count - rotation->used) % rotation->count;

	rotation->free_slots[tail] = slot;
	rotation->used--;
}
