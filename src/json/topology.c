/* SPDX-License-Identifier: Apache-2.0 */
#include "json/topology.h"

#include "json/text.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define RAILS_MAX 1024u /* rails of one pair of places that are told */

/* Of things that exist. */
static struct kvx_topology_place place_of(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_place place = {0};

	kvx_topology_place(topology, index, &place);
	return place;
}

static struct kvx_topology_port port_of(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_port port = {0};

	kvx_topology_port(topology, index, &port);
	return port;
}

static struct kvx_topology_pair pair_of(const struct kvx_topology *topology, uint32_t place,
					uint32_t port)
{
	struct kvx_topology_pair pair = {0};

	kvx_topology_pair(topology, place, port, &pair);
	return pair;
}

static bool is_rdma(const struct kvx_topology_port *port)
{
	return port->fitness != KVX_PORT_NOT_RDMA;
}

/* The class of the place's nearest RDMA ports, whatever their state. False: there are none. */
static bool find_nearest(const struct kvx_topology *topology, uint32_t place,
			 enum kvx_nearness *nearest)
{
	bool found = false;

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = port_of(topology, i);
		struct kvx_topology_pair pair = pair_of(topology, place, i);
		if (!is_rdma(&port) || (found && pair.nearness >= *nearest))
			continue;
		*nearest = pair.nearness;
		found = true;
	}
	return found;
}

static json_t *known(double value)
{
	return value > 0 ? json_real(value) : json_null();
}

static json_t *numa_json(uint32_t numa)
{
	return numa == KVX_TOPOLOGY_NONE ? json_null() : json_integer(numa);
}

/* A virtual port may have no address; then its name tells it apart. */
static const char *address(const struct kvx_topology_port *port)
{
	return port->pci[0] ? port->pci : port->name;
}

static const char *state_name(enum kvx_port_state state)
{
	return state == KVX_PORT_UP ? "up" : state == KVX_PORT_DOWN ? "down" : "unknown";
}

static const char *link_name(enum kvx_port_link link)
{
	static const char *const names[] = {"unknown", "infiniband", "ethernet", "other"};

	return names[link];
}

static const char *use_name(enum kvx_port_use use)
{
	return use == KVX_USE_CHOSEN ? "chosen" : "failover";
}

static const char *fitness_name(enum kvx_port_fitness fitness)
{
	static const char *const names[] = {"rdma", "interface", "management", "shadow"};

	return names[fitness];
}

/* The ports in that use, with their weights. */
static json_t *ports_in_use(const struct kvx_topology *topology, uint32_t place,
			    enum kvx_port_use use)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = port_of(topology, i);
		struct kvx_topology_pair pair = pair_of(topology, place, i);
		if (pair.use == use)
			json_array_append_new(array,
					      json_pack("{so, so, si, sf, ss, so}", "pci",
							kvx_json_text(address(&port)), "name",
							kvx_json_text(port.name), "port",
							(int)port.number, "weight", pair.weight,
							"class", kvx_nearness_name(pair.nearness),
							"path_gbps", known(pair.path_gbps)));
	}
	return array;
}

static bool holds(const json_t *array, const char *text)
{
	for (size_t i = 0; i < json_array_size(array); i++)
		if (strcmp(json_string_value(json_array_get(array, i)), text) == 0)
			return true;
	return false;
}

/* Each address once: ports of one device share it. */
static json_t *nearest_ports(const struct kvx_topology *topology, uint32_t place,
			     enum kvx_nearness nearest)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = port_of(topology, i);
		if (is_rdma(&port) && pair_of(topology, place, i).nearness == nearest &&
		    !holds(array, address(&port)))
			json_array_append_new(array, kvx_json_text(address(&port)));
	}
	return array;
}

static json_t *sentences(const struct kvx_topology *topology, uint32_t place)
{
	json_t *array = json_array();
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		kvx_topology_explain(topology, place, i, text, sizeof(text));
		json_array_append_new(array, kvx_json_text(text));
	}
	return array;
}

static json_t *place_json(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_place place = place_of(topology, index);
	enum kvx_nearness nearest = KVX_NEARNESS_SYS;
	bool has_any = find_nearest(topology, index, &nearest);
	json_t *object = json_pack(
		"{so, so, so, so, so, so, so}", "name", kvx_json_text(place.name), "numa",
		numa_json(place.numa), "class",
		has_any ? json_string(kvx_nearness_name(nearest)) : json_null(), "nearest",
		has_any ? nearest_ports(topology, index, nearest) : json_array(), "chosen",
		ports_in_use(topology, index, KVX_USE_CHOSEN), "failover",
		ports_in_use(topology, index, KVX_USE_FAILOVER), "explain",
		sentences(topology, index));

	if (place.kind == KVX_PLACE_GPU) {
		json_object_set_new(object, "pci", kvx_json_text(place.pci));
		json_object_set_new(object, "model", kvx_json_text(place.model));
	}
	return object;
}

static json_t *places(const struct kvx_topology *topology, enum kvx_place_kind kind)
{
	json_t *array = json_array();

	for (uint32_t p = 0; p < kvx_topology_place_count(topology); p++)
		if (place_of(topology, p).kind == kind)
			json_array_append_new(array, place_json(topology, p));
	return array;
}

static json_t *port_json(const struct kvx_topology_port *port)
{
	return json_pack("{so, so, si, so, so, so, so, so, ss, ss, so, ss}", "pci",
			 kvx_json_text(address(port)), "name", kvx_json_text(port->name), "port",
			 (int)port->number, "interface", kvx_json_text(port->interface), "numa",
			 numa_json(port->numa), "speed_gbps", known(port->speed_gbps), "pcie_gbps",
			 known(port->pcie_gbps), "pcie_width",
			 port->pcie_width ? json_integer(port->pcie_width) : json_null(), "state",
			 state_name(port->state), "link", link_name(port->link), "fabric",
			 kvx_json_text(port->fabric), "kind", fitness_name(port->fitness));
}

static json_t *ports(const struct kvx_topology *topology, bool rdma)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = port_of(topology, i);
		if (is_rdma(&port) == rdma)
			json_array_append_new(array, port_json(&port));
	}
	return array;
}

static json_t *notes(const struct kvx_topology *topology)
{
	json_t *array = json_array();
	const char *note;

	for (uint32_t i = 0; (note = kvx_topology_note(topology, i)); i++)
		json_array_append_new(array, kvx_json_text(note));
	return array;
}

json_t *kvx_topology_json(const struct kvx_topology *topology, const char *machine)
{
	return json_pack("{ss, so, so, so, so, so, so}", "version", kvx_version(), "machine",
			 kvx_json_text(machine), "gpus", places(topology, KVX_PLACE_GPU),
			 "numa_nodes", places(topology, KVX_PLACE_NUMA), "nics",
			 ports(topology, true), "others", ports(topology, false), "notes",
			 notes(topology));
}

/* ------------------------------------------------------------------------------- two machines */

static json_t *rail_json(const struct kvx_topology *here, const struct kvx_topology *there,
			 const struct kvx_topology_rail *rail)
{
	struct kvx_topology_port local = port_of(here, rail->local_port),
				 remote = port_of(there, rail->remote_port);

	return json_pack("{so, so, si, so, so, si, ss, sf}", "local",
			 kvx_json_text(address(&local)), "local_name", kvx_json_text(local.name),
			 "local_port", (int)local.number, "remote", kvx_json_text(address(&remote)),
			 "remote_name", kvx_json_text(remote.name), "remote_port",
			 (int)remote.number, "use", use_name(rail->use), "weight", rail->weight);
}

static json_t *rails_between(const struct kvx_topology *here, uint32_t from,
			     const struct kvx_topology *there, uint32_t to)
{
	struct kvx_topology_rail *rails = calloc(RAILS_MAX, sizeof(*rails));
	json_t *array = json_array();
	int count = rails ? kvx_topology_rails(here, from, there, to, rails, RAILS_MAX) : 0;

	for (int i = 0; i < count && i < (int)RAILS_MAX; i++)
		json_array_append_new(array, rail_json(here, there, &rails[i]));
	free(rails);
	return array;
}

static json_t *rail_sentences(const struct kvx_topology *here, uint32_t from,
			      const struct kvx_topology *there, uint32_t to)
{
	json_t *array = json_array();
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t i = 0; i < kvx_topology_port_count(here); i++) {
		kvx_topology_explain_rail(here, from, i, there, to, text, sizeof(text));
		json_array_append_new(array, kvx_json_text(text));
	}
	return array;
}

static const char *place_name(const struct kvx_topology_place *place)
{
	return place->pci[0] ? place->pci : place->name;
}

/* Any GPU may send to any other, and any node's memory to any other's. */
json_t *kvx_topology_rails_json(const struct kvx_topology *here, const struct kvx_topology *there)
{
	json_t *array = json_array();

	for (uint32_t h = 0; h < kvx_topology_place_count(here); h++) {
		for (uint32_t t = 0; t < kvx_topology_place_count(there); t++) {
			struct kvx_topology_place from = place_of(here, h), to = place_of(there, t);
			if (from.kind != to.kind)
				continue;
			json_array_append_new(array,
					      json_pack("{so, so, so, so}", "local",
							kvx_json_text(place_name(&from)), "remote",
							kvx_json_text(place_name(&to)), "rails",
							rails_between(here, h, there, t), "explain",
							rail_sentences(here, h, there, t)));
		}
	}
	return array;
}
