/* SPDX-License-Identifier: Apache-2.0 */
/* Memory places, ports, and which are chosen, for people. */
#include "ctl.h"

#include <string.h>

#define PORTS_TEXT 512

/* "mlx5_0:1 50 %, mlx5_1:1 50 %" */
static void name_ports(const json_t *ports, bool weights, char *text)
{
	const json_t *port;
	size_t i, bytes = 0;

	text[0] = 0;
	json_array_foreach(ports, i, port)
	{
		char share[16] = "";
		if (weights)
			snprintf(share, sizeof(share), " %.0f %%",
				 100 * json_number_value(json_object_get(port, "weight")));
		int length = snprintf(text + bytes, PORTS_TEXT - bytes, "%s%s:%" PRIu64 "%s",
				      bytes ? ", " : "", ctl_text(port, "name"),
				      ctl_number(port, "port"), share);
		if (length < 0 || (size_t)length >= PORTS_TEXT - bytes)
			break;
		bytes += (size_t)length;
	}
}

static void add_places(struct ctl_table *table, const json_t *places)
{
	char chosen[PORTS_TEXT], failover[PORTS_TEXT];
	const json_t *place;
	size_t i;

	json_array_foreach(places, i, place)
	{
		const json_t *numa = json_object_get(place, "numa");
		name_ports(json_object_get(place, "chosen"), true, chosen);
		name_ports(json_object_get(place, "failover"), false, failover);
		ctl_table_add(table, "%s", ctl_text(place, "name"));
		if (json_is_integer(numa))
			ctl_table_add(table, "%" JSON_INTEGER_FORMAT, json_integer_value(numa));
		else
			ctl_table_add(table, "?");
		ctl_table_add(table, "%s", ctl_text(place, "class"));
		ctl_table_add(table, "%s", chosen);
		ctl_table_add(table, "%s", failover);
	}
}

static void add_gbps(struct ctl_table *table, const json_t *port, const char *name)
{
	double gbps = json_number_value(json_object_get(port, name));

	if (gbps > 0)
		ctl_table_add(table, "%.4g Gb/s", gbps);
	else
		ctl_table_add(table, "?");
}

static void show_ports(const json_t *ports)
{
	static const char *const titles[] = {"port",  "state", "link",   ">speed",
					     ">PCIe", "pci",   "fabric", NULL};
	struct ctl_table table;
	const json_t *port;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(ports, i, port)
	{
		ctl_table_add(&table, "%s:%" PRIu64, ctl_text(port, "name"),
			      ctl_number(port, "port"));
		ctl_table_add(&table, "%s", ctl_text(port, "state"));
		ctl_table_add(&table, "%s", ctl_text(port, "link"));
		add_gbps(&table, port, "speed_gbps");
		add_gbps(&table, port, "pcie_gbps");
		ctl_table_add(&table, "%s", ctl_text(port, "pci"));
		ctl_table_add(&table, "%s", ctl_text(port, "fabric"));
	}
	ctl_table_print(&table);
}

/* Sentences stand whole, each on its line. */
static void show_sentences(const json_t *places)
{
	const json_t *place, *sentence;
	size_t i, k;

	json_array_foreach(places, i, place)
		json_array_foreach(json_object_get(place, "explain"), k, sentence)
			ctl_pair(stdout, k ? "" : ctl_text(place, "name"), "%s",
				 json_string_value(sentence));
}

void ctl_show_topology(const json_t *answer)
{
	static const char *const titles[] = {"place", ">NUMA", "near", "chosen", "failover", NULL};
	const json_t *gpus = json_object_get(answer, "gpus"),
		     *nodes = json_object_get(answer, "numa_nodes"),
		     *nics = json_object_get(answer, "nics"), *note;
	struct ctl_table table;
	size_t i;

	ctl_table_begin(&table, titles);
	add_places(&table, gpus);
	add_places(&table, nodes);
	ctl_table_print(&table);
	if (json_array_size(nics)) {
		printf("\n");
		show_ports(nics);
		printf("\n");
		show_sentences(gpus);
		show_sentences(nodes);
	} else {
		printf("\nno RDMA device: transfers go by shared memory or tcp\n");
	}
	json_array_foreach(json_object_get(answer, "notes"), i, note)
		ctl_pair(stdout, "note", "%s", json_string_value(note));
}
