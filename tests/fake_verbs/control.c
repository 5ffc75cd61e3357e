/* SPDX-License-Identifier: Apache-2.0 */
/* What a test does to the devices, and what it sees of them. */
#include "internal.h"

#define CUTS_MAX 64

static struct {
	const struct fake_port *port, *other;
} cuts[CUTS_MAX];

static struct fake_port *port_of(const char *name, unsigned number)
{
	struct fake_device *device = fake_device_find(name);

	if (number < 1 || number > device->ports)
		fake_die("%s has no port %u", name, number);
	return &device->port[number - 1];
}

/* To all who have the device open. */
static void tell(struct fake_device *device, struct ibv_async_event event)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &device->contexts)
		fake_queue_push(&kvx_container_of(entry, struct fake_context, entry)->async, event,
				NULL);
}

EXPORT void fake_verbs_port(const char *device, unsigned number, bool up)
{
	struct fake_port *port = port_of(device, number);
	struct ibv_async_event event = {.element.port_num = (int)number,
					.event_type =
						up ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR};

	fake_lock();
	if (port->up != up) {
		port->up = up;
		tell(fake_device_find(device), event);
		fake_changed();
	}
	fake_unlock();
}

static bool is_between(int i, const struct fake_port *port, const struct fake_port *other)
{
	return (cuts[i].port == port && cuts[i].other == other) ||
	       (cuts[i].port == other && cuts[i].other == port);
}

bool fake_is_cut(const struct fake_port *port, const struct fake_port *other)
{
	for (int i = 0; i < CUTS_MAX; i++)
		if (is_between(i, port, other))
			return true;
	return false;
}

EXPORT void fake_verbs_cut(const char *device, unsigned number, const char *other,
			   unsigned other_number, bool cut)
{
	const struct fake_port *port = port_of(device, number);
	const struct fake_port *far_port = port_of(other, other_number);
	int place = 0;

	fake_lock();
	if (!cut || !fake_is_cut(port, far_port)) {
		while (place < CUTS_MAX &&
		       (cut ? cuts[place].port != NULL : !is_between(place, port, far_port)))
			place++;
		if (cut && place == CUTS_MAX)
			fake_die("at most %d cuts", CUTS_MAX);
		if (place < CUTS_MAX) {
			cuts[place].port = cut ? port : NULL;
			cuts[place].other = cut ? far_port : NULL;
		}
	}
	fake_changed();
	fake_unlock();
}

EXPORT void fake_verbs_freeze(const char *name, bool frozen)
{
	struct fake_device *device = fake_device_find(name);

	fake_lock();
	device->frozen = frozen;
	fake_changed();
	fake_unlock();
}

EXPORT void fake_verbs_device_fatal(const char *name)
{
	struct fake_device *device = fake_device_find(name);
	struct ibv_async_event event = {.event_type = IBV_EVENT_DEVICE_FATAL};
	struct kvx_list *entry, *following;

	fake_lock();
	kvx_list_for_each (entry, following, &device->contexts)
		kvx_container_of(entry, struct fake_context, entry)->dead = true;
	tell(device, event);
	kvx_list_for_each (entry, following, &device->qps)
		fake_qp_fail(kvx_container_of(entry, struct fake_qp, entry));
	fake_unlock();
}

EXPORT bool fake_verbs_qp_fatal(uint32_t number)
{
	struct fake_qp *qp;

	fake_lock();
	qp = fake_qp_find(number);
	if (qp) {
		fake_qp_event(qp, IBV_EVENT_QP_FATAL);
		fake_qp_fail(qp);
	}
	fake_unlock();
	return qp != NULL;
}

EXPORT size_t fake_verbs_qps(const char *name, uint32_t *numbers, size_t max)
{
	struct fake_device *device = fake_device_find(name);
	struct kvx_list *entry, *following;
	size_t count = 0;

	fake_lock();
	kvx_list_for_each (entry, following, &device->qps) {
		if (count < max)
			numbers[count] = kvx_container_of(entry, struct fake_qp, entry)->ibv.qp_num;
		count++;
	}
	fake_unlock();
	return count;
}

EXPORT size_t fake_verbs_registered(const char *name, const void *address, size_t bytes)
{
	struct fake_device *device = fake_device_find(name);
	const uint8_t *begin = address;
	struct kvx_list *entry, *following;
	size_t count = 0;

	fake_lock();
	kvx_list_for_each (entry, following, &device->mrs) {
		struct fake_mr *mr = kvx_container_of(entry, struct fake_mr, entry);
		if (!mr->map && mr->bytes < begin + bytes && begin < mr->bytes + mr->ibv.length)
			count++;
	}
	fake_unlock();
	return count;
}

static void add(struct fake_verbs_counters *sum, const struct fake_verbs_counters *counters)
{
	const uint64_t *from = (const uint64_t *)counters;
	uint64_t *to = (uint64_t *)sum;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
}

static void add_device(struct fake_verbs_counters *sum, struct fake_device *device)
{
	struct kvx_list *entry, *following;

	add(sum, &device->counters);
	kvx_list_for_each (entry, following, &device->qps) {
		struct fake_qp *qp = kvx_container_of(entry, struct fake_qp, entry);
		sum->writes += qp->fast_writes;
		sum->bytes += qp->fast_bytes;
		sum->posts += qp->fast_posts;
	}
}

EXPORT void fake_verbs_counters(const char *name, struct fake_verbs_counters *counters)
{
	struct fake_device *one = name ? fake_device_find(name) : NULL;

	*counters = (struct fake_verbs_counters){0};
	fake_lock();
	for (unsigned i = 0; i < fake_device_count; i++)
		if (!one || one == &fake_devices[i])
			add_device(counters, &fake_devices[i]);
	fake_unlock();
}
