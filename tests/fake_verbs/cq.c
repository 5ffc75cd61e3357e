/* SPDX-License-Identifier: Apache-2.0 */
/* Completion queues and channels. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

/* --- channels --- */

EXPORT struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct fake_context *own = fake_context(context);
	struct fake_channel *channel = own->dead ? NULL : calloc(1, sizeof(*channel));

	if (!channel || !fake_queue_init(&channel->queue)) {
		int error = own->dead ? EIO : errno;
		free(channel);
		errno = error;
		return NULL;
	}
	channel->ibv.context = context;
	channel->ibv.fd = channel->queue.fd;
	fake_lock();
	own->children++;
	own->device->counters.channels++;
	fake_unlock();
	return &channel->ibv;
}

EXPORT int ibv_destroy_comp_channel(struct ibv_comp_channel *ibv)
{
	struct fake_channel *channel = (struct fake_channel *)ibv;
	struct fake_context *context = fake_context(ibv->context);

	fake_lock();
	if (ibv->refcnt) {
		fake_unlock();
		return EBUSY;
	}
	context->children--;
	context->device->counters.channels--;
	fake_queue_finish(&channel->queue);
	fake_unlock();
	free(channel);
	return 0;
}

EXPORT int ibv_get_cq_event(struct ibv_comp_channel *ibv, struct ibv_cq **cq, void **cq_context)
{
	struct ibv_async_event event;

	if (fake_queue_take(&((struct fake_channel *)ibv)->queue, &event))
		return -1;
	*cq = event.element.cq;
	*cq_context = event.element.cq->cq_context;
	return 0;
}

EXPORT void ibv_ack_cq_events(struct ibv_cq *cq, unsigned count)
{
	fake_lock();
	cq->comp_events_completed += count;
	fake_changed();
	fake_unlock();
}

/* --- queues --- */

EXPORT struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
				    struct ibv_comp_channel *channel, int vector)
{
	struct fake_context *own = fake_context(context);
	bool null = fake_option(FAKE_null);
	struct fake_cq *cq = NULL;
	int error = EIO;

	if (own->dead)
		goto fail;
	error = EINVAL;
	if (cqe < 1 || (uint64_t)cqe > fake_option(FAKE_max_cqe) || vector != 0)
		goto fail;
	error = ENOMEM;
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		goto fail;
	cq->ring = calloc((size_t)cqe, sizeof(*cq->ring));
	if (null)
		cq->own = calloc((size_t)cqe, sizeof(*cq->own));
	if (!cq->ring || (null && !cq->own))
		goto fail;
	cq->capacity = (uint32_t)cqe;
	cq->ibv.context = context;
	cq->ibv.channel = channel;
	cq->ibv.cq_context = cq_context;
	cq->ibv.cqe = cqe;
	fake_lock();
	if (channel)
		channel->refcnt++;
	own->children++;
	own->device->counters.cqs++;
	fake_unlock();
	return &cq->ibv;
fail:
	if (cq)
		free(cq->ring);
	free(cq);
	errno = error;
	return NULL;
}

EXPORT int ibv_destroy_cq(struct ibv_cq *ibv)
{
	struct fake_cq *cq = (struct fake_cq *)ibv;
	struct fake_context *context = fake_context(ibv->context);

	fake_lock();
	if (cq->users) {
		fake_unlock();
		return EBUSY;
	}
	if (ibv->channel) {
		fake_queue_purge(&((struct fake_channel *)ibv->channel)->queue,
				 &cq->comp_delivered);
		ibv->channel->refcnt--;
	}
	fake_queue_purge(&context->async, &cq->async_delivered);
	fake_acknowledged(&cq->comp_delivered, &ibv->comp_events_completed);
	fake_acknowledged(&cq->async_delivered, &ibv->async_events_completed);
	context->children--;
	context->device->counters.cqs--;
	fake_unlock();
	free(cq->ring);
	free(cq->own);
	free(cq);
	return 0;
}

int fake_req_notify_cq(struct ibv_cq *ibv, int solicited_only)
{
	struct fake_cq *cq = (struct fake_cq *)ibv;

	fake_lock();
	if (!solicited_only)
		cq->armed = FAKE_ARM_ANY;
	else if (cq->armed == FAKE_ARM_NONE)
		cq->armed = FAKE_ARM_SOLICITED;
	fake_unlock();
	return 0;
}

static void notify(struct fake_cq *cq, bool solicited)
{
	struct fake_channel *channel = (struct fake_channel *)cq->ibv.channel;

	if (!channel || cq->armed == FAKE_ARM_NONE ||
	    (cq->armed == FAKE_ARM_SOLICITED && !solicited))
		return;
	cq->armed = FAKE_ARM_NONE;
	fake_queue_push(&channel->queue, (struct ibv_async_event){.element.cq = &cq->ibv},
			&cq->comp_delivered);
}

/* The queue is of no use any more, and nothing on it can be told: as bad as on a device. */
static void overrun(struct fake_cq *cq)
{
	struct fake_context *context = fake_context(cq->ibv.context);
	struct ibv_async_event event = {.element.cq = &cq->ibv, .event_type = IBV_EVENT_CQ_ERR};
	struct kvx_list *entry, *following;

	if (cq->broken)
		return;
	fprintf(stderr, "fake_verbs: %s: completion queue of %u entries overrun\n",
		context->device->ibv.name, cq->capacity);
	cq->broken = true;
	context->device->counters.overruns++;
	fake_queue_push(&context->async, event, &cq->async_delivered);
	kvx_list_for_each (entry, following, &context->device->qps) {
		struct fake_qp *qp = kvx_container_of(entry, struct fake_qp, entry);
		if (qp->ibv.send_cq == &cq->ibv || qp->ibv.recv_cq == &cq->ibv)
			fake_qp_fail(qp);
	}
}

void fake_cq_push(struct fake_cq *cq, const struct fake_cqe *cqe, bool solicited)
{
	uint32_t count = cq->count;

	if (count == cq->capacity || cq->broken) {
		overrun(cq);
		return;
	}
	cq->ring[(cq->head + count) % cq->capacity] = *cqe;
	cq->count = count + 1;
	notify(cq, solicited || cqe->wc.status != IBV_WC_SUCCESS);
}

void fake_cq_push_own(struct fake_cq *cq, const struct fake_cqe *cqe)
{
	if (cq->own_tail - cq->own_head == cq->capacity)
		fake_die("completion queue of %u entries overrun", cq->capacity);
	cq->own[cq->own_tail++ % cq->capacity] = *cqe;
}

void fake_cq_notify_own(struct fake_cq *cq)
{
	if (cq->armed == FAKE_ARM_NONE || cq->own_head == cq->own_tail)
		return;
	fake_lock();
	notify(cq, false);
	fake_unlock();
}

void fake_cq_purge(struct fake_cq *cq, uint32_t qp_number)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cq->count; i++) {
		struct fake_cqe *cqe = &cq->ring[(cq->head + i) % cq->capacity];
		if (cqe->wc.qp_num != qp_number)
			cq->ring[(cq->head + kept++) % cq->capacity] = *cqe;
	}
	cq->count = kept;
}

int fake_poll_cq(struct ibv_cq *ibv, int max, struct ibv_wc *wc)
{
	struct fake_cq *cq = (struct fake_cq *)ibv;
	int got = 0;

	if (cq->broken)
		return -1;
	while (got < max && cq->own_head != cq->own_tail)
		wc[got++] = cq->own[cq->own_head++ % cq->capacity].wc;
	if (got == max || cq->count == 0)
		return got;
	fake_lock();
	for (; got < max && cq->count; got++, cq->count--) {
		struct fake_cqe *cqe = &cq->ring[cq->head];
		struct fake_qp *qp = fake_qp_find(cqe->wc.qp_num);
		wc[got] = cqe->wc;
		if (qp && cqe->send)
			qp->released = cqe->released;
		cq->head = (cq->head + 1) % cq->capacity;
	}
	fake_unlock();
	return got;
}
