/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix as text, in the form that nvidia-smi topo -m has made known. */
#include "topo.h"

#include <stdlib.h>
#include <string.h>

#define NAME_MAX_SHOWN 256

static const char mark[] = {[KVX_USE_NONE] = ' ', [KVX_USE_FAILOVER] = '+', [KVX_USE_CHOSEN] = '*'};

static const char *state_name(enum kvx_port_state state)
{
	return state == KVX_PORT_UP ? "up" : state == KVX_PORT_DOWN ? "down" : "unknown";
}

/* "64 Gb/s", or "-" for what is not known. */
static void print_gbps(FILE *file, const char *what, double gbps)
{
	if (gbps > 0)
		fprintf(file, ", %s %.4g Gb/s", what, gbps);
}

static void write_row(const struct kvx_topology *topology, uint32_t index, FILE *file)
{
	struct kvx_topology_place place = topo_place(topology, index);
	uint32_t column = 0;

	fprintf(file, "%-8s", place.name);
	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = topo_port(topology, i);
		struct kvx_topology_pair pair = topo_pair(topology, index, i);
		if (!topo_is_rdma(&port))
			continue;
		fprintf(file, "%4s%c  ", kvx_nearness_name(pair.nearness), mark[pair.use]);
		column++;
	}
	if (!column)
		fprintf(file, "-      ");
	if (place.numa == KVX_TOPOLOGY_NONE)
		fprintf(file, "%4s", "?");
	else
		fprintf(file, "%4u", place.numa);
	fprintf(file, "  %s%s%s\n", place.pci, place.model[0] ? "  " : "", place.model);
}

static void write_matrix(const struct kvx_topology *topology, FILE *file)
{
	uint32_t column = 0;

	fprintf(file, "%-8s", "");
	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = topo_port(topology, i);
		char name[16];
		if (!topo_is_rdma(&port))
			continue;
		snprintf(name, sizeof(name), "NIC%u", column++);
		fprintf(file, "%-7s", name);
	}
	fprintf(file, "%sNUMA\n", column ? "" : "       ");
	for (uint32_t p = 0; p < kvx_topology_place_count(topology); p++)
		write_row(topology, p, file);
}

static void write_port(const struct kvx_topology_port *port, FILE *file)
{
	char name[NAME_MAX_SHOWN];

	topo_port_name(port, name, sizeof(name));
	fprintf(file, "%s", name);
	if (port->pci[0] && strcmp(name, port->pci) != 0)
		fprintf(file, "  %s", port->pci);
	fprintf(file, "  %s", state_name(port->state));
	print_gbps(file, "port", port->speed_gbps);
	print_gbps(file, "PCIe", port->pcie_gbps);
	if (port->numa != KVX_TOPOLOGY_NONE)
		fprintf(file, ", NUMA %u", port->numa);
	if (port->interface[0])
		fprintf(file, ", interface %s", port->interface);
	if (port->fabric[0])
		fprintf(file, ", fabric %s", port->fabric);
	if (port->fitness == KVX_PORT_MANAGEMENT)
		fprintf(file, ", management function");
	if (port->fitness == KVX_PORT_SHADOW)
		fprintf(file, ", virtual function");
	fprintf(file, "\n");
}

static void write_ports(const struct kvx_topology *topology, FILE *file)
{
	uint32_t column = 0;

	fprintf(file, "\n");
	for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
		struct kvx_topology_port port = topo_port(topology, i);
		if (!topo_is_rdma(&port))
			continue;
		fprintf(file, "  NIC%-3u ", column++);
		write_port(&port, file);
	}
	if (!column)
		fprintf(file, "  no RDMA device: transfers go by shared memory or tcp\n");
}

static void write_legend(const struct kvx_topology *topology, FILE *file)
{
	const char *note;

	fprintf(file, "\n"
		      "  PIX   same PCIe switch             *  chosen\n"
		      "  PXB   several PCIe switches        +  kept for failover\n"
		      "  PHB   same host bridge\n"
		      "  NODE  same NUMA node\n"
		      "  SYS   across the machine\n");
	for (uint32_t i = 0; (note = kvx_topology_note(topology, i)); i++)
		fprintf(file, "\nnote: %s\n", note);
}

static void write_sentences(const struct kvx_topology *topology, FILE *file)
{
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t p = 0; p < kvx_topology_place_count(topology); p++) {
		struct kvx_topology_place place = topo_place(topology, p);
		fprintf(file, "\n%s%s%s\n", place.name, place.pci[0] ? " " : "", place.pci);
		for (uint32_t i = 0; i < kvx_topology_port_count(topology); i++) {
			kvx_topology_explain(topology, p, i, text, sizeof(text));
			fprintf(file, "  %s\n", text);
		}
	}
}

static void write_rail(const struct topo *topo, const struct kvx_topology_rail *rail, FILE *file)
{
	struct kvx_topology_port local = topo_port(topo->topology, rail->local_port),
				 remote = topo_port(topo->peer, rail->remote_port);
	char here[NAME_MAX_SHOWN], there[NAME_MAX_SHOWN];

	topo_port_name(&local, here, sizeof(here));
	topo_port_name(&remote, there, sizeof(there));
	fprintf(file, "  %c %s -- %s", mark[rail->use], here, there);
	if (rail->use == KVX_USE_CHOSEN)
		fprintf(file, "  %.0f %%", 100 * rail->weight);
	if (local.fabric[0] && strcmp(local.fabric, remote.fabric) == 0)
		fprintf(file, "  (%s)", local.fabric);
	fprintf(file, "\n");
}

static int write_rails(const struct topo *topo, FILE *file)
{
	struct kvx_topology_rail *rails = calloc(TOPO_RAILS_MAX, sizeof(*rails));

	if (!rails)
		return 1;
	fprintf(file, "\nrails to %s\n", topo->peer_name);
	for (uint32_t p = 0; p < kvx_topology_place_count(topo->topology); p++) {
		uint32_t there;
		if (!topo_counterpart(topo, p, &there))
			continue;
		struct kvx_topology_place place = topo_place(topo->topology, p);
		int count = kvx_topology_rails(topo->topology, p, topo->peer, there, rails,
					       TOPO_RAILS_MAX);
		fprintf(file, "\n%s -- %s%s\n", place.name, place.name,
			count > 0 ? "" : ": no port here reaches one there");
		for (int i = 0; i < count && i < (int)TOPO_RAILS_MAX; i++)
			write_rail(topo, &rails[i], file);
	}
	free(rails);
	return 0;
}

static void write_rail_sentences(const struct topo *topo, FILE *file)
{
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	for (uint32_t p = 0; p < kvx_topology_place_count(topo->topology); p++) {
		uint32_t there;
		if (!topo_counterpart(topo, p, &there))
			continue;
		struct kvx_topology_place place = topo_place(topo->topology, p);
		fprintf(file, "\n%s -- %s\n", place.name, place.name);
		for (uint32_t i = 0; i < kvx_topology_port_count(topo->topology); i++) {
			kvx_topology_explain_rail(topo->topology, p, i, topo->peer, there, text,
						  sizeof(text));
			fprintf(file, "  %s\n", text);
		}
	}
}

int topo_write_text(const struct topo *topo, bool explains, FILE *file)
{
	int error = 0;

	write_matrix(topo->topology, file);
	write_ports(topo->topology, file);
	write_legend(topo->topology, file);
	if (explains)
		write_sentences(topo->topology, file);
	if (topo->peer)
		error = write_rails(topo, file);
	if (topo->peer && explains)
		write_rail_sentences(topo, file);
	return error || ferror(file);
}
