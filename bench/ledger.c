/* SPDX-License-Identifier: Apache-2.0 */
#include "ledger.h"

#include "failure.h"

#include <stdlib.h>

int kvx_ledger_init(struct kvx_ledger *ledger, uint32_t slots)
{
	*ledger = (struct kvx_ledger){.records = calloc(slots, sizeof(*ledger->records)),
				      .slots = slots};
	if (!ledger->records)
		return kvx_failure_set("receiver: no memory for %u slots", slots);
	pthread_mutex_init(&ledger->lock, NULL);
	return 0;
}

void kvx_ledger_finish(struct kvx_ledger *ledger)
{
	if (!ledger->records)
		return;
	free(ledger->records);
	ledger->records = NULL;
	pthread_mutex_destroy(&ledger->lock);
}

void kvx_ledger_note(struct kvx_ledger *ledger, uint32_t slot, uint64_t request, uint32_t blocks)
{
	pthread_mutex_lock(&ledger->lock);
	ledger->records[slot] = (struct kvx_ledger_record){request, blocks, true};
	pthread_mutex_unlock(&ledger->lock);
}

void kvx_ledger_forget(struct kvx_ledger *ledger, uint32_t slot)
{
	pthread_mutex_lock(&ledger->lock);
	ledger->records[slot].pending = false;
	pthread_mutex_unlock(&ledger->lock);
}

static void verify_slot(struct kvx_ledger *ledger, struct kvx_endpoint *endpoint, uint32_t slot,
			struct kvx_verdict *verdict)
{
	struct kvx_ledger_record *record = &ledger->records[slot];

	for (uint32_t i = 0; i < endpoint->setup.corrupt && !ledger->corrupted; i++)
		kvx_endpoint_corrupt(endpoint, slot, record->blocks, i);
	ledger->corrupted = true;
	kvx_endpoint_verify(endpoint, slot, record->request, record->blocks, verdict);
	record->pending = false;
}

void kvx_ledger_verify(struct kvx_ledger *ledger, struct kvx_endpoint *endpoint,
		       struct kvx_verdict *verdict)
{
	pthread_mutex_lock(&ledger->lock);
	for (uint32_t slot = 0; slot < ledger->slots; slot++)
		if (ledger->records[slot].pending)
			verify_slot(ledger, endpoint, slot, verdict);
	pthread_mutex_unlock(&ledger->lock);
}
