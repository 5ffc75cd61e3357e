/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#define PLACES 65536u

static struct {
	void *object;
	uint8_t kind, tag;
} places[PLACES];
static uint32_t last;

uint32_t fake_table_add(enum fake_kind kind, void *object)
{
	for (uint32_t tried = 1; tried < PLACES; tried++) {
		uint32_t place = (last + tried) % PLACES;
		/* Small numbers are special to InfiniBand, and 0 is nobody's. */
		if (place == 0 || places[place].kind != FAKE_NOTHING)
			continue;
		/* The first tag is no constant either: keys are not to be guessed in order. */
		places[place].tag += places[place].tag ? 1 : (uint8_t)(place * 37 + 11);
		places[place].kind = (uint8_t)kind;
		places[place].object = object;
		last = place;
		return place << 8 | places[place].tag;
	}
	return 0;
}

void fake_table_remove(uint32_t key)
{
	/* A window's key has moved on meanwhile; the next user's must be another. */
	places[key >> 8].tag = (uint8_t)key;
	places[key >> 8].kind = FAKE_NOTHING;
	places[key >> 8].object = NULL;
}

void *fake_table_find(uint32_t key, enum fake_kind *kind)
{
	if (key >> 8 >= PLACES)
		return NULL;
	*kind = (enum fake_kind)places[key >> 8].kind;
	return places[key >> 8].object;
}

struct fake_qp *fake_qp_find(uint32_t number)
{
	enum fake_kind kind = FAKE_NOTHING;
	struct fake_qp *qp = fake_table_find(number, &kind);

	return kind == FAKE_QP && qp->ibv.qp_num == number ? qp : NULL;
}
