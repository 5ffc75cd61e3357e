/* SPDX-License-Identifier: Apache-2.0 */
/* Receive requests: a queue pair's own, and shared ones. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

bool fake_receives_init(struct fake_receives *receives, uint32_t max, uint32_t max_sge)
{
	receives->max = max;
	receives->max_sge = max_sge;
	receives->ring = calloc(max ? max : 1, sizeof(*receives->ring));
	receives->sges = calloc((size_t)max * max_sge + 1, sizeof(*receives->sges));
	if (!receives->ring || !receives->sges) {
		fake_receives_finish(receives);
		return false;
	}
	for (uint32_t i = 0; i < max; i++)
		receives->ring[i].sges = &receives->sges[(size_t)i * max_sge];
	return true;
}

void fake_receives_finish(struct fake_receives *receives)
{
	free(receives->ring);
	free(receives->sges);
}

int fake_receives_post(struct fake_receives *receives, struct ibv_recv_wr *wr,
		       struct ibv_recv_wr **bad)
{
	for (; wr; wr = wr->next) {
		struct fake_receive *receive;
		*bad = wr;
		if (wr->num_sge < 0 || (uint32_t)wr->num_sge > receives->max_sge)
			return EINVAL;
		if (receives->count == receives->max)
			return ENOMEM;
		receive = &receives->ring[(receives->head + receives->count) % receives->max];
		receive->wr_id = wr->wr_id;
		receive->count = wr->num_sge;
		for (int i = 0; i < wr->num_sge; i++)
			receive->sges[i] = wr->sg_list[i];
		receives->count++;
	}
	return 0;
}

bool fake_receives_take(struct fake_receives *receives, struct fake_receive *receive)
{
	if (receives->count == 0)
		return false;
	*receive = receives->ring[receives->head];
	receives->head = (receives->head + 1) % receives->max;
	receives->count--;
	return true;
}

EXPORT struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *init)
{
	struct fake_context *context = fake_context(pd->context);
	struct fake_srq *srq;
	int error = EIO;

	if (context->dead)
		goto fail;
	error = EINVAL;
	if (init->attr.max_wr < 1 || init->attr.max_wr > fake_option(FAKE_max_srq_wr) ||
	    init->attr.max_sge > RECEIVE_SGES_MAX)
		goto fail;
	error = ENOMEM;
	srq = calloc(1, sizeof(*srq));
	if (!srq || !fake_receives_init(&srq->receives, init->attr.max_wr, init->attr.max_sge)) {
		free(srq);
		goto fail;
	}
	srq->ibv.context = pd->context;
	srq->ibv.srq_context = init->srq_context;
	srq->ibv.pd = pd;
	fake_lock();
	((struct fake_pd *)pd)->children++;
	context->device->counters.srqs++;
	fake_unlock();
	return &srq->ibv;
fail:
	errno = error;
	return NULL;
}

EXPORT int ibv_destroy_srq(struct ibv_srq *ibv)
{
	struct fake_srq *srq = (struct fake_srq *)ibv;
	struct fake_context *context = fake_context(ibv->context);

	fake_lock();
	if (srq->users) {
		fake_unlock();
		return EBUSY;
	}
	fake_queue_purge(&context->async, &srq->delivered);
	fake_acknowledged(&srq->delivered, &ibv->events_completed);
	((struct fake_pd *)ibv->pd)->children--;
	context->device->counters.srqs--;
	fake_unlock();
	fake_receives_finish(&srq->receives);
	free(srq);
	return 0;
}

/* Queues keep their size; only the limit can be set. */
EXPORT int ibv_modify_srq(struct ibv_srq *ibv, struct ibv_srq_attr *attr, int mask)
{
	struct fake_srq *srq = (struct fake_srq *)ibv;

	if (mask & ~IBV_SRQ_LIMIT)
		return EINVAL;
	if ((mask & IBV_SRQ_LIMIT) && !fake_option(FAKE_srq_limit))
		return EOPNOTSUPP;
	if (mask & IBV_SRQ_LIMIT) {
		if (attr->srq_limit > srq->receives.max)
			return EINVAL;
		fake_lock();
		srq->limit = attr->srq_limit;
		fake_unlock();
	}
	return 0;
}

EXPORT int ibv_query_srq(struct ibv_srq *ibv, struct ibv_srq_attr *attr)
{
	struct fake_srq *srq = (struct fake_srq *)ibv;

	fake_lock();
	*attr = (struct ibv_srq_attr){srq->receives.max, srq->receives.max_sge, srq->limit};
	fake_unlock();
	return 0;
}

void fake_srq_taken(struct fake_srq *srq)
{
	struct ibv_async_event event = {.element.srq = &srq->ibv,
					.event_type = IBV_EVENT_SRQ_LIMIT_REACHED};

	if (srq->receives.count >= srq->limit)
		return;
	srq->limit = 0; /* Once, until the limit is set again. */
	fake_queue_push(&fake_context(srq->ibv.context)->async, event, &srq->delivered);
}

int fake_post_srq_recv(struct ibv_srq *ibv, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct fake_srq *srq = (struct fake_srq *)ibv;
	int error;

	fake_lock();
	error = fake_receives_post(&srq->receives, wr, bad);
	fake_unlock();
	return error;
}
