/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix, the choice and its reasons as JSON. docs/topology.md lists the fields. */
#include "topo.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 6

/* A path need not be UTF-8, which JSON is. */
static json_t *path_json(const char *path)
{
	json_t *text = json_string(path);

	return text ? text : json_string("?");
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
		struct kvx_topology_port port = topo_port(topology, i);
		struct kvx_topology_pair pair = topo_pair(topology, place, i);
		if (pair.use == use)
			json_array_append_new(array,
					      json_pack("{ss, ss, si, sf, ss, so}", "pci",
							address(&port), "name", port.name, "port",
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
		struct kvx_topology_port port = topo_port(topology, i);
		if (topo_is_rdma(&port) && topo_pair(topology, place, i).nearness == nearest &&
		    !holds(array, address(&port)))
			json_array_append_new(array, json_string(address(&port)));
	}
	return array;
}

static json_t *sentences(const struct kvx_topology *topology, uint32_t place)
{
	json_t *array = json_array();
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		kvx_topology_explain(topology, place, i, text, sizeof(text));
		json_array_append_new(array, json_string(text));
	}
	return array;
}

static json_t *place_json(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_place place = topo_place(topology, index);
	enum kvx_nearness nearest = KVX_NEARNESS_SYS;
	bool has_any = topo_nearest(topology, index, &nearest);
	json_t *object = json_pack(
		"{ss, so, so, so, so, so, so}", "name", place.name, "numa", numa_json(place.numa),
		"class", has_any ? json_string(kvx_nearness_name(nearest)) : json_null(), "nearest",
		has_any ? nearest_ports(topology, index, nearest) : json_array(), "chosen",
		ports_in_use(topology, index, KVX_USE_CHOSEN), "failover",
		ports_in_use(topology, index, KVX_USE_FAILOVER), "explain",
		sentences(topology, index));

	if (place.kind == KVX_PLACE_GPU) {
		json_object_set_new(object, "pci", json_string(place.pci));
		json_object_set_new(object, "model", json_string(place.model));
	}
	return object;
}

static json_t *places(const struct kvx_topology *topology, enum kvx_place_kind kind)
{
	json_t *array = json_array();

	for (uint32_t p = 0; p < kvx_topology_place_count(topology); p++)
		if (topo_place(topology, p).kind == kind)
			json_array_append_new(array, place_json(topology, p));
	return array;
}

static json_t *port_json(const struct kvx_topology_port *port)
{
	return json_pack("{ss, ss, si, ss, so, so, so, so, ss, ss, ss, ss}", "pci", address(port),
			 "name", port->name, "port", (int)port->number, "interface",
			 port->interface, "numa", numa_json(port->numa), "speed_gbps",
			 known(port->speed_gbps), "pcie_gbps", known(port->pcie_gbps), "pcie_width",
			 port->pcie_width ? json_integer(port->pcie_width) : json_null(), "state",
			 state_name(port->state), "link", link_name(port->link), "fabric",
			 port->fabric, "kind", fitness_name(port->fitness));
}

static json_t *ports(const struct kvx_topology *topology, bool is_rdma)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = topo_port(topology, i);
		if (topo_is_rdma(&port) == is_rdma)
			json_array_append_new(array, port_json(&port));
	}
	return array;
}

static json_t *notes(const struct kvx_topology *topology)
{
	json_t *array = json_array();
	const char *note;

	for (uint32_t i = 0; (note = kvx_topology_note(topology, i)); i++)
		json_array_append_new(array, json_string(note));
	return array;
}

/* ---------------------------------------------------------------------------------------- peer */

static json_t *rail_json(const struct topo *topo, const struct kvx_topology_rail *rail)
{
	struct kvx_topology_port local = topo_port(topo->topology, rail->local_port),
				 remote = topo_port(topo->peer, rail->remote_port);

	return json_pack("{ss, ss, si, ss, ss, si, ss, sf}", "local", address(&local), "local_name",
			 local.name, "local_port", (int)local.number, "remote", address(&remote),
			 "remote_name", remote.name, "remote_port", (int)remote.number, "use",
			 use_name(rail->use), "weight", rail->weight);
}

static json_t *rails_between(const struct topo *topo, uint32_t here, uint32_t there)
{
	struct kvx_topology_rail *rails = calloc(TOPO_RAILS_MAX, sizeof(*rails));
	json_t *array = json_array();
	int count = rails ? kvx_topology_rails(topo->topology, here, topo->peer, there, rails,
					       TOPO_RAILS_MAX)
			  : 0;

	for (int i = 0; i < count && i < (int)TOPO_RAILS_MAX; i++)
		json_array_append_new(array, rail_json(topo, &rails[i]));
	free(rails);
	return array;
}

static json_t *rail_sentences(const struct topo *topo, uint32_t here, uint32_t there)
{
	json_t *array = json_array();
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t i = 0; i < kvx_topology_port_count(topo->topology); i++) {
		kvx_topology_explain_rail(topo->topology, here, i, topo->peer, there, text,
					  sizeof(text));
		json_array_append_new(array, json_string(text));
	}
	return array;
}

/* Any GPU may send to any other, and any node's memory to any other's. */
static json_t *rails_json(const struct topo *topo)
{
	json_t *array = json_array();

	for (uint32_t h = 0; h < kvx_topology_place_count(topo->topology); h++) {
		for (uint32_t t = 0; t < kvx_topology_place_count(topo->peer); t++) {
			struct kvx_topology_place here = topo_place(topo->topology, h),
						  there = topo_place(topo->peer, t);
			if (here.kind != there.kind)
				continue;
			json_array_append_new(
				array, json_pack("{ss, ss, so, so}", "local",
						 here.pci[0] ? here.pci : here.name, "remote",
						 there.pci[0] ? there.pci : there.name, "rails",
						 rails_between(topo, h, t), "explain",
						 rail_sentences(topo, h, t)));
		}
	}
	return array;
}

int topo_write_json(const struct topo *topo, FILE *file)
{
	json_t *root = json_pack(
		"{ss, so, so, so, so, so, so}", "version", kvx_version(), "machine",
		path_json(topo->name), "gpus", places(topo->topology, KVX_PLACE_GPU), "numa_nodes",
		places(topo->topology, KVX_PLACE_NUMA), "nics", ports(topo->topology, true),
		"others", ports(topo->topology, false), "notes", notes(topo->topology));

	if (root && topo->peer) {
		json_object_set_new(root, "peer", path_json(topo->peer_name));
		json_object_set_new(root, "rails", rails_json(topo));
	}
	/* Names that are not UTF-8 leave no object to write. */
	int error = !root ||
		    json_dumpf(root, file, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)) != 0 ||
		    fputc('\n', file) == EOF;
	json_decref(root);
	return error;
}
