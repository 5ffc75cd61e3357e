/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTROL "tcp" /* what control connections are made of */

/* ----------------------------------------------------------- what the control transport reports */

static void control_up(void *engine, struct kvx_link *control)
{
	(void)engine;
	kvx_verbs_link_introduce(control->owner);
}

static void control_accepted(void *engine, struct kvx_link *control)
{
	kvx_verbs_link_accept(engine, control);
}

static void control_down(void *engine, struct kvx_link *control, int code, const char *text)
{
	struct kvx_verbs_link *link = control->owner;

	(void)engine;
	if (link)
		kvx_verbs_link_fail(link, code, "control connection: %s", text);
}

static void control_rail(void *engine, struct kvx_link *control, uint32_t rail, bool up,
			 const char *text)
{
	(void)engine, (void)control, (void)rail, (void)up, (void)text;
}

static void control_message(void *engine, struct kvx_link *control, const void *bytes,
			    uint32_t length)
{
	(void)engine;
	if (control->owner)
		kvx_verbs_link_hear(control->owner, bytes, length);
}

static int control_place(void *engine, struct kvx_link *control, const struct kvx_unit *unit,
			 uint64_t place, uint64_t bytes, struct iovec *iov, int iov_max)
{
	(void)engine, (void)control, (void)unit, (void)place, (void)bytes, (void)iov, (void)iov_max;
	return 0;
}

static void control_landed(void *engine, struct kvx_link *control, uint32_t rail,
			   const struct kvx_unit *unit, uint64_t place, uint64_t bytes)
{
	(void)engine, (void)control, (void)rail, (void)unit, (void)place, (void)bytes;
}

/* Control connections carry messages alone. */
static const struct kvx_sink control_sink = {
	.link_up = control_up,
	.link_accepted = control_accepted,
	.link_down = control_down,
	.rail_changed = control_rail,
	.message = control_message,
	.place = control_place,
	.landed = control_landed,
};

/* -------------------------------------------------------------------------- opening and closing */

/* Where it listens: the host of option listen, with a port of its own. */
static void set_control_options(struct kvx_transport *transport)
{
	const struct kvx_options *options = transport->context->options;
	struct kvx_options *control = &transport->control_options;

	*control = *options;
	control->tcp_connections = 0;
	if (options->verbs_listen[0]) {
		strcpy(control->listen, options->verbs_listen);
		return;
	}
	char *colon = strrchr(control->listen, ':');
	if (colon)
		snprintf(colon, sizeof(control->listen) - (size_t)(colon - control->listen), ":0");
}

static int open_control(struct kvx_transport *transport)
{
	set_control_options(transport);
	transport->control_context = *transport->context;
	transport->control_context.sink = &control_sink;
	transport->control_context.engine = transport;
	transport->control_context.options = &transport->control_options;
	transport->control_ops = kvx_transport_find(CONTROL);
	return transport->control_ops->open(&transport->control_context, &transport->control);
}

static struct kvx_transport *transport_new(const struct kvx_transport_context *context)
{
	struct kvx_transport *transport = calloc(1, sizeof(*transport));

	if (!transport)
		return NULL;
	transport->context = context;
	transport->timer_ns = KVX_NEVER_NS;
	kvx_list_init(&transport->links);
	kvx_list_init(&transport->orphans);
	kvx_list_init(&transport->notices);
	kvx_list_init(&transport->draining);
	for (size_t i = 0; i < sizeof(transport->by_qpn) / sizeof(transport->by_qpn[0]); i++)
		kvx_list_init(&transport->by_qpn[i]);
	transport->pairs = calloc(KVX_VERBS_PAIRS_MAX, sizeof(struct kvx_verbs_pair *));
	if (!transport->pairs) {
		free(transport);
		return NULL;
	}
	return transport;
}

static void transport_free(struct kvx_transport *transport)
{
	free(transport->pairs);
	free(transport);
}

static int verbs_open(const struct kvx_transport_context *context, struct kvx_transport **result)
{
	struct kvx_transport *transport = transport_new(context);

	if (!transport)
		return kvx_fail(KVX_E_MEMORY, "verbs: out of memory");
	int error = kvx_verbs_devices_open(transport);
	if (error)
		goto fail_devices;
	transport->chunk_shift = (uint32_t)__builtin_ctzll(transport->chunk_bytes);
	error = kvx_verbs_setup_open(&transport->setup, context->waker);
	if (error)
		goto fail_setup;
	error = open_control(transport);
	if (error)
		goto fail_control;
	*result = transport;
	return 0;

fail_control:
	kvx_verbs_setup_close(&transport->setup);
fail_setup:
	kvx_verbs_devices_close(transport);
fail_devices:
	transport_free(transport);
	return error;
}

static void verbs_close(struct kvx_transport *transport)
{
	struct kvx_list *entry, *next;

	/* Accepted links that the engine does not know. */
	kvx_list_for_each (entry, next, &transport->links)
		kvx_verbs_disconnect(&kvx_container_of(entry, struct kvx_verbs_link, entry)->base);
	kvx_verbs_setup_close(&transport->setup);
	kvx_verbs_permits_report(transport);
	transport->control_ops->close(transport->control);
	kvx_verbs_devices_close(transport);
	transport_free(transport);
}

static const char *verbs_address(const struct kvx_transport *transport)
{
	return transport->control_ops->address(transport->control);
}

static int verbs_resolve(const char *address, char *resolved, size_t size)
{
	return kvx_transport_find(CONTROL)->resolve(address, resolved, size);
}

/* What is attached is detached by itself; nothing else is known of memory. */
static void verbs_forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

/* -------------------------------------------------------------------------------------- progress
 */

void kvx_verbs_timer_set(struct kvx_transport *transport, int64_t due_ns)
{
	if (due_ns < transport->timer_ns)
		transport->timer_ns = due_ns;
}

static int run_timers(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *next;
	transport->timer_ns = KVX_NEVER_NS;
	int done = kvx_verbs_drain_expire(transport, now_ns);
	kvx_list_for_each (entry, next, &transport->links)
		done += kvx_verbs_link_expire(kvx_container_of(entry, struct kvx_verbs_link, entry),
					      now_ns);
	return done;
}

static int report_links(struct kvx_transport *transport)
{
	struct kvx_list *entry, *next;
	int done = 0;

	transport->troubled = false;
	kvx_list_for_each (entry, next, &transport->links) {
		struct kvx_verbs_link *link = kvx_container_of(entry, struct kvx_verbs_link, entry);
		if (!link->troubled)
			continue;
		kvx_verbs_link_report(link);
		done++;
	}
	return done;
}

static int verbs_progress(struct kvx_transport *transport, int64_t now_ns)
{
	int done = transport->control_ops->progress(transport->control, now_ns);

	done += kvx_verbs_setup_progress(&transport->setup);
	for (uint32_t i = 0; i < transport->device_count; i++)
		done += kvx_verbs_poll(&transport->devices[i]);
	if (now_ns >= transport->timer_ns)
		done += run_timers(transport, now_ns);
	if (transport->troubled)
		done += report_links(transport);
	return done + kvx_verbs_permits_report(transport);
}

static bool verbs_arm(struct kvx_transport *transport)
{
	bool work = transport->control_ops->arm(transport->control);

	/* What completed before the event was asked for makes none. */
	for (uint32_t i = 0; i < transport->device_count; i++) {
		kvx_verbs_device_refill(&transport->devices[i], true);
		kvx_verbs_device_arm(&transport->devices[i]);
		work |= kvx_verbs_poll(&transport->devices[i]) > 0;
	}
	return work || transport->troubled || !kvx_list_empty(&transport->notices) ||
	       kvx_verbs_setup_ready(&transport->setup);
}

/* ------------------------------------------------------------------------------- device events */

static void fail_rails(struct kvx_transport *transport, const struct kvx_verbs_port *port,
		       const char *text)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &transport->links) {
		struct kvx_verbs_link *link = kvx_container_of(entry, struct kvx_verbs_link, entry);
		for (uint32_t i = 0; i < link->base.rails; i++)
			if (link->rails[i].port == port)
				kvx_verbs_rail_fail(&link->rails[i], true, "%s", text);
	}
}

static void retry_rails(struct kvx_transport *transport, const struct kvx_verbs_port *port)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &transport->links) {
		struct kvx_verbs_link *link = kvx_container_of(entry, struct kvx_verbs_link, entry);
		for (uint32_t i = 0; i < link->base.rails; i++) {
			struct kvx_verbs_rail *rail = &link->rails[i];
			if (rail->port == port && rail->state == KVX_VERBS_RAIL_DOWN)
				rail->due_ns = 0;
		}
	}
	kvx_verbs_timer_set(transport, 0);
}

void kvx_verbs_port_changed(struct kvx_verbs_port *port, bool up, const char *text)
{
	struct kvx_transport *transport = port->device->transport;

	kvx_log_write(transport->context->log, KVX_LOG_WARNING, "verbs %s", text);
	if (up)
		retry_rails(transport, port);
	else
		fail_rails(transport, port, text);
}

void kvx_verbs_device_died(struct kvx_verbs_device *device, const char *text)
{
	struct kvx_transport *transport = device->transport;

	kvx_log_write(transport->context->log, KVX_LOG_ERROR, "verbs %s", text);
	for (uint32_t i = 0; i < transport->port_count; i++)
		if (transport->ports[i].device == device)
			fail_rails(transport, &transport->ports[i], text);
}

void kvx_verbs_pair_failed(struct kvx_verbs_pair *pair, const char *text)
{
	if (pair) /* what completed before it first */
		kvx_verbs_poll(pair->port->device);
	if (pair && pair->rail)
		kvx_verbs_rail_fail(pair->rail, true, "%s", text);
}

const struct kvx_transport_ops kvx_verbs_transport = {
	.name = "verbs",
	.one_sided = true,
	.open = verbs_open,
	.close = verbs_close,
	.address = verbs_address,
	.resolve = verbs_resolve,
	.connect = kvx_verbs_connect,
	.disconnect = kvx_verbs_disconnect,
	.message = kvx_verbs_message,
	.post = kvx_verbs_post,
	.withdraw = kvx_verbs_withdraw,
	.forget = verbs_forget,
	.progress = verbs_progress,
	.arm = verbs_arm,
	.explain = kvx_verbs_explain,
	.port = kvx_verbs_rail_port,
	.attach = kvx_verbs_attach,
	.detach = kvx_verbs_detach,
	.hint = kvx_verbs_hint,
	.share = kvx_verbs_share,
	.permit = kvx_verbs_lend,
	.forbid = kvx_verbs_forbid,
};
