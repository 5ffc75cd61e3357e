/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-topo: which NICs serve which GPU, and why. See docs/topology.md. */
#include "topo.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct settings {
	const char *input, *override, *peer, *json, *svg, *save;
	bool explains;
};

enum { KEY_INPUT = 0x100, KEY_OVERRIDE, KEY_PEER, KEY_JSON, KEY_SVG, KEY_SAVE, KEY_EXPLAIN };

static const struct argp_option options[] = {
	{"input", KEY_INPUT, "FILE", 0,
	 "the machine that a file describes in place of this one: XML of hwloc (lstopo FILE.xml), "
	 "XML of NCCL, or a matrix file",
	 0},
	{"override", KEY_OVERRIDE, "FILE|LIST", 0,
	 "as option topology of an engine: a file that says how near things are, or a list of "
	 "devices, \"0000:19:00.0=mlx5_0,mlx5_1;*=mlx5_2\" (default: KVX_TOPOLOGY, for this "
	 "machine)",
	 0},
	{"explain", KEY_EXPLAIN, NULL, 0, "a sentence for every pair", 0},
	{"peer", KEY_PEER, "FILE", 0, "show the rails to the machine that this file describes", 0},
	{"json", KEY_JSON, "FILE", 0, "write JSON in place of text; -: to stdout", 0},
	{"svg", KEY_SVG, "FILE", 0, "write a picture; -: to stdout", 0},
	{"save", KEY_SAVE, "FILE", 0, "write a matrix file, for --input and --peer; -: to stdout",
	 0},
	{0},
};

static error_t parse(int key, char *argument, struct argp_state *state)
{
	struct settings *settings = state->input;

	switch (key) {
	case KEY_INPUT:
		settings->input = argument;
		return 0;
	case KEY_OVERRIDE:
		settings->override = argument;
		return 0;
	case KEY_EXPLAIN:
		settings->explains = true;
		return 0;
	case KEY_PEER:
		settings->peer = argument;
		return 0;
	case KEY_JSON:
		settings->json = argument;
		return 0;
	case KEY_SVG:
		settings->svg = argument;
		return 0;
	case KEY_SAVE:
		settings->save = argument;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "no argument is expected, but there is \"%s\"", argument);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ----------------------------------------------------------- what the forms of output share */

struct kvx_topology_place topo_place(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_place place = {0};

	kvx_topology_place(topology, index, &place);
	return place;
}

struct kvx_topology_port topo_port(const struct kvx_topology *topology, uint32_t index)
{
	struct kvx_topology_port port = {0};

	kvx_topology_port(topology, index, &port);
	return port;
}

struct kvx_topology_pair topo_pair(const struct kvx_topology *topology, uint32_t place,
				   uint32_t port)
{
	struct kvx_topology_pair pair = {0};

	kvx_topology_pair(topology, place, port, &pair);
	return pair;
}

void topo_port_name(const struct kvx_topology_port *port, char *text, size_t size)
{
	if (port->name[0] && port->number > 1)
		snprintf(text, size, "%s:%u", port->name, port->number);
	else
		snprintf(text, size, "%s",
			 port->name[0]        ? port->name
			 : port->interface[0] ? port->interface
					      : port->pci);
}

bool topo_is_rdma(const struct kvx_topology_port *port)
{
	return port->fitness != KVX_PORT_NOT_RDMA;
}

bool topo_nearest(const struct kvx_topology *topology, uint32_t place, enum kvx_nearness *nearest)
{
	bool is_found = false;

	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = topo_port(topology, i);
		struct kvx_topology_pair pair = topo_pair(topology, place, i);
		if (!topo_is_rdma(&port) || (is_found && pair.nearness >= *nearest))
			continue;
		*nearest = pair.nearness;
		is_found = true;
	}
	return is_found;
}

bool topo_counterpart(const struct topo *topo, uint32_t place, uint32_t *there)
{
	struct kvx_topology_place here = topo_place(topo->topology, place);

	for (uint32_t p = 0; p < kvx_topology_place_count(topo->peer); p++) {
		struct kvx_topology_place other = topo_place(topo->peer, p);
		if (strcmp(here.name, other.name) == 0) {
			*there = p;
			return true;
		}
	}
	return false;
}

/* -------------------------------------------------------------------------------------- output */

static int complain(const char *what, const char *why)
{
	fprintf(stderr, "kvxfer-topo: %s%s%s\n", what, *what ? ": " : "", why);
	return 1;
}

static int write_save(const struct topo *topo, FILE *file)
{
	size_t length = kvx_topology_write(topo->topology, NULL, 0);
	char *text = malloc(length + 1);

	if (!text)
		return 1;
	kvx_topology_write(topo->topology, text, length + 1);
	bool is_written = fwrite(text, 1, length, file) == length;
	free(text);
	return !is_written;
}

/* Runs a writer on a file, or on stdout for "-". */
static int write_to(const char *path, const struct topo *topo,
		    int (*write)(const struct topo *topo, FILE *file))
{
	bool is_stdout = strcmp(path, "-") == 0;
	FILE *file = is_stdout ? stdout : fopen(path, "we");

	if (!file)
		return complain(path, strerror(errno));
	int error = write(topo, file);
	if (is_stdout ? fflush(file) : fclose(file))
		error = 1;
	return error ? complain(path, "cannot be written in full") : 0;
}

static int write_all(const struct settings *settings, const struct topo *topo)
{
	int status = 0;

	if (settings->json)
		status |= write_to(settings->json, topo, topo_write_json);
	if (settings->svg)
		status |= write_to(settings->svg, topo, topo_write_svg);
	if (settings->save)
		status |= write_to(settings->save, topo, write_save);
	if (!settings->json && !settings->svg && !settings->save)
		status = topo_write_text(topo, settings->explains, stdout) || fflush(stdout);
	return status;
}

int main(int count, char **arguments)
{
	static const struct argp parser = {
		options,
		parse,
		NULL,
		"Shows how near each GPU and NUMA node is to each NIC port, and which ports kvxfer "
		"uses for it.",
		NULL,
		NULL,
		NULL,
	};
	struct settings settings = {0};
	struct topo topo = {0};

	if (argp_parse(&parser, count, arguments, 0, NULL, &settings))
		return 1;
	if (!settings.override && !settings.input)
		settings.override = getenv("KVX_TOPOLOGY");
	topo.name = settings.input ? settings.input : "this machine";
	topo.peer_name = settings.peer;
	if (kvx_topology_open(settings.input, settings.override, &topo.topology))
		return complain("", kvx_error_text());
	int status;
	if (settings.peer && kvx_topology_open(settings.peer, NULL, &topo.peer))
		status = complain("", kvx_error_text());
	else
		status = write_all(&settings, &topo);
	kvx_topology_close(topo.peer);
	kvx_topology_close(topo.topology);
	return status;
}
