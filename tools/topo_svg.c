/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine as a picture: packages below each other, in each of them its NUMA nodes, host bridges
 * and switches side by side, GPUs along the top, NICs along the bottom, and between them the
 * chosen pairs. Boxes that hold a single thing are left out.
 */
#include "topo.h"

#include <stdlib.h>
#include <string.h>

#define MARGIN 24
#define PADDING 10 /* inside a box, left and right */
#define GAP 12     /* between things side by side */
#define TITLE 22   /* height of a box's title */
#define BOTTOM 9   /* below what a box holds */
#define GPU_WIDTH 148
#define GPU_HEIGHT 62
#define NIC_WIDTH 110
#define NIC_HEIGHT 62
#define BETWEEN 104 /* from GPUs to NICs, where the lines run */
#define ROW_GAP 22
#define HEADER 84
#define LEGEND 58
#define CHARACTER_WIDTH 7.2
#define WIDTH_MIN 640
#define WIDTH_MAX 1700 /* of a row, beyond which the next package begins another */

#define COLORS 8
static const char *const colors[COLORS] = {"#0f8a5f", "#c2410c", "#1d4ed8", "#a21caf",
					   "#b45309", "#0e7490", "#be123c", "#4d7c0f"};

/* What stands in a box itself, and where; boxes that are not drawn lend their things to the box
 * around them. */
struct area {
	bool is_drawn;
	uint32_t holder; /* nearest drawn box around it */
	uint32_t things; /* GPUs and NICs in it and in what it holds */
	uint32_t parts;  /* own GPUs and NICs, and drawn boxes */
	uint32_t gpus, nics;
	unsigned levels;    /* of drawn boxes in it, itself included */
	double inner_width; /* of what it holds */
	double width, x, y, height;
};

struct spot {
	double x, y; /* of its upper left corner */
};

struct picture {
	const struct topo *topo;
	const struct kvx_topology *topology;
	FILE *file;
	uint32_t box_count, place_count, port_count;
	struct area *areas;
	struct spot *gpus, *nics; /* by place, by port */
	bool shows_memory;        /* no GPU: NUMA nodes' memory takes their place */
	double width, height;
};

static struct kvx_topology_box box_at(const struct picture *picture, uint32_t index)
{
	struct kvx_topology_box box = {0};

	kvx_topology_box(picture->topology, index, &box);
	return box;
}

static bool is_shown_place(const struct picture *picture, uint32_t index)
{
	return (topo_place(picture->topology, index).kind == KVX_PLACE_NUMA) ==
	       picture->shows_memory;
}

static bool is_shown_port(const struct picture *picture, uint32_t index)
{
	struct kvx_topology_port port = topo_port(picture->topology, index);

	return topo_is_rdma(&port);
}

/* ------------------------------------------------------------------------------------ layout */

static void count_things(struct picture *picture)
{
	for (uint32_t p = 0; p < picture->place_count; p++)
		if (is_shown_place(picture, p))
			picture->areas[topo_place(picture->topology, p).box].gpus++;
	for (uint32_t i = 0; i < picture->port_count; i++)
		if (is_shown_port(picture, i))
			picture->areas[topo_port(picture->topology, i).box].nics++;
	/* Children stand behind their parents. */
	for (uint32_t b = picture->box_count; b-- > 0;) {
		struct area *area = &picture->areas[b];
		uint32_t parent = box_at(picture, b).parent;
		area->things += area->gpus + area->nics;
		area->parts += area->gpus + area->nics;
		if (parent != KVX_TOPOLOGY_NONE) {
			picture->areas[parent].things += area->things;
			picture->areas[parent].parts += area->things > 0;
		}
	}
}

/* Packages and NUMA nodes are drawn as they are; bridges where they join something. */
static bool is_worth_drawing(const struct picture *picture, uint32_t index)
{
	switch (box_at(picture, index).kind) {
	case KVX_BOX_MACHINE:
	case KVX_BOX_PACKAGE:
	case KVX_BOX_NUMA:
		return true;
	default:
		return picture->areas[index].parts > 1;
	}
}

static void pick_boxes(struct picture *picture)
{
	for (uint32_t b = 0; b < picture->box_count; b++) {
		struct area *area = &picture->areas[b];
		uint32_t parent = box_at(picture, b).parent;
		area->is_drawn = is_worth_drawing(picture, b);
		if (b)
			area->holder = picture->areas[parent].is_drawn
					       ? parent
					       : picture->areas[parent].holder;
		if (area->is_drawn || !b)
			continue;
		picture->areas[area->holder].gpus += area->gpus;
		picture->areas[area->holder].nics += area->nics;
	}
}

static double row_width(uint32_t count, double width)
{
	return count ? count * (width + GAP) - GAP : 0;
}

/* Of the box's own GPUs and NICs. */
static double own_width(const struct area *area)
{
	double gpus = row_width(area->gpus, GPU_WIDTH), nics = row_width(area->nics, NIC_WIDTH);

	return gpus > nics ? gpus : nics;
}

static double title_width(const struct kvx_topology_box *box)
{
	return (double)(strlen(box->name) + 1 + strlen(box->pci)) * CHARACTER_WIDTH;
}

/* From the inside out. */
static void measure(struct picture *picture)
{
	for (uint32_t b = picture->box_count; b-- > 0;) {
		struct area *area = &picture->areas[b], *holder = &picture->areas[area->holder];
		struct kvx_topology_box box = box_at(picture, b);
		if (!area->is_drawn || !b)
			continue;
		double own = own_width(area);
		area->width += own + (own > 0 && area->width > 0 ? GAP : 0);
		area->inner_width = area->width;
		if (area->width < title_width(&box))
			area->width = title_width(&box);
		area->width += 2 * PADDING;
		area->levels++;
		if (area->holder) {
			holder->width += area->width + (holder->width > 0 ? GAP : 0);
			holder->levels =
				holder->levels > area->levels ? holder->levels : area->levels;
		}
	}
}

static void place_own(struct picture *picture, uint32_t index, double x, double top)
{
	double gpu_x = x, nic_x = x;
	const struct area *area = &picture->areas[index];
	double own = own_width(area);

	gpu_x += (own - row_width(area->gpus, GPU_WIDTH)) / 2;
	nic_x += (own - row_width(area->nics, NIC_WIDTH)) / 2;
	for (uint32_t p = 0; p < picture->place_count; p++) {
		uint32_t box = topo_place(picture->topology, p).box;
		uint32_t holder = picture->areas[box].is_drawn ? box : picture->areas[box].holder;
		if (holder != index || !is_shown_place(picture, p))
			continue;
		picture->gpus[p] = (struct spot){gpu_x, top};
		gpu_x += GPU_WIDTH + GAP;
	}
	for (uint32_t i = 0; i < picture->port_count; i++) {
		uint32_t box = topo_port(picture->topology, i).box;
		uint32_t holder = picture->areas[box].is_drawn ? box : picture->areas[box].holder;
		if (holder != index || !is_shown_port(picture, i))
			continue;
		picture->nics[i] = (struct spot){nic_x, top + GPU_HEIGHT + BETWEEN};
		nic_x += NIC_WIDTH + GAP;
	}
}

/* All GPUs of a row stand at the same height, `top`, and so do its NICs. */
static void place_box(struct picture *picture, uint32_t index, double x, double top)
{
	struct area *area = &picture->areas[index];
	double inside = x + PADDING, slack = area->width - 2 * PADDING - area->inner_width;

	area->x = x;
	area->y = top - area->levels * TITLE;
	area->height = area->levels * (TITLE + BOTTOM) + GPU_HEIGHT + BETWEEN + NIC_HEIGHT;
	inside += slack / 2; /* where the title is wider than what the box holds */
	/* Own things first: what is not behind a switch is nearer to the CPU. */
	place_own(picture, index, inside, top);
	if (own_width(area) > 0)
		inside += own_width(area) + GAP;
	for (uint32_t b = index + 1; b < picture->box_count; b++) {
		if (!picture->areas[b].is_drawn || picture->areas[b].holder != index)
			continue;
		place_box(picture, b, inside, top);
		inside += picture->areas[b].width + GAP;
	}
}

/* The next box in the machine itself, from `index` on; box_count: there is none. */
static uint32_t next_outer(const struct picture *picture, uint32_t index)
{
	while (index < picture->box_count &&
	       (!picture->areas[index].is_drawn || picture->areas[index].holder))
		index++;
	return index;
}

/* Places boxes side by side from `first` on, as many as fit. Returns the first of the next row. */
static uint32_t place_row(struct picture *picture, uint32_t first, double *y)
{
	unsigned levels = 0;
	double width = 0, x = MARGIN;
	uint32_t end = first;

	for (; end < picture->box_count; end = next_outer(picture, end + 1)) {
		const struct area *area = &picture->areas[end];
		if (end != first && width + area->width > WIDTH_MAX)
			break;
		width += area->width + ROW_GAP;
		levels = area->levels > levels ? area->levels : levels;
	}
	double top = *y + levels * TITLE;
	for (uint32_t b = first; b < end; b = next_outer(picture, b + 1)) {
		place_box(picture, b, x, top);
		x += picture->areas[b].width + ROW_GAP;
	}
	*y = top + GPU_HEIGHT + BETWEEN + NIC_HEIGHT + levels * BOTTOM + ROW_GAP;
	if (width - ROW_GAP > picture->width)
		picture->width = width - ROW_GAP;
	return end;
}

/* What belongs to the machine only has a row of its own below the others. */
static void place_rows(struct picture *picture)
{
	const struct area *machine = &picture->areas[0];
	double y = HEADER, own = own_width(machine);

	picture->width = own > WIDTH_MIN ? own : WIDTH_MIN;
	for (uint32_t b = next_outer(picture, 1); b < picture->box_count;)
		b = place_row(picture, b, &y);
	if (own > 0) {
		place_own(picture, 0, MARGIN, machine->gpus ? y : y - GPU_HEIGHT - BETWEEN);
		y += (machine->gpus ? GPU_HEIGHT + BETWEEN : 0) + NIC_HEIGHT + ROW_GAP;
	}
	picture->width += 2 * MARGIN;
	picture->height = y + LEGEND;
}

/* ------------------------------------------------------------------------------------- drawing */

/* Text that comes from files is not trusted to be free of markup. What is too long ends in dots. */
static void put_text(const struct picture *picture, const char *text, size_t length_max)
{
	size_t length = strlen(text), shown = length > length_max ? length_max - 1 : length;

	for (size_t i = 0; i < shown; i++) {
		switch (text[i]) {
		case '<':
			fputs("&lt;", picture->file);
			break;
		case '>':
			fputs("&gt;", picture->file);
			break;
		case '&':
			fputs("&amp;", picture->file);
			break;
		default:
			fputc(text[i], picture->file);
		}
	}
	if (shown < length)
		fputs("&#8230;", picture->file);
}

static void put_line(const struct picture *picture, double x, double y, const char *style,
		     const char *text, size_t length_max)
{
	fprintf(picture->file, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, style);
	put_text(picture, text, length_max);
	fputs("</text>\n", picture->file);
}

static void put_box(const struct picture *picture, const struct spot *spot, double width,
		    double height, const char *style)
{
	fprintf(picture->file,
		"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"7\" "
		"class=\"%s\"/>\n",
		spot->x, spot->y, width, height, style);
}

static void draw_boxes(const struct picture *picture)
{
	static const char *const styles[] = {
		[KVX_BOX_MACHINE] = "machine", [KVX_BOX_PACKAGE] = "package",
		[KVX_BOX_NUMA] = "numa",       [KVX_BOX_HOST_BRIDGE] = "host",
		[KVX_BOX_BRIDGE] = "switch",   [KVX_BOX_SWITCH] = "switch",
	};

	for (uint32_t b = 1; b < picture->box_count; b++) {
		const struct area *area = &picture->areas[b];
		struct kvx_topology_box box = box_at(picture, b);
		struct spot spot = {area->x, area->y};
		char title[2 * KVX_TOPOLOGY_NAME_MAX];
		if (!area->is_drawn)
			continue;
		put_box(picture, &spot, area->width, area->height, styles[box.kind]);
		snprintf(title, sizeof(title), "%s %s", box.name, box.pci);
		put_line(picture, area->x + PADDING, area->y + 15, "title", title, sizeof(title));
	}
}

/* The color of a GPU's lines. */
static const char *color_of(const struct picture *picture, uint32_t place)
{
	uint32_t before = 0;

	for (uint32_t p = 0; p < place; p++)
		before += is_shown_place(picture, p);
	return colors[before % COLORS];
}

static void draw_link(const struct picture *picture, uint32_t place, uint32_t port,
		      const struct kvx_topology_pair *pair)
{
	const struct spot *gpu = &picture->gpus[place], *nic = &picture->nics[port];
	bool goes_up = nic->y < gpu->y; /* to a row above */
	double x1 = gpu->x + GPU_WIDTH / 2.0, y1 = goes_up ? gpu->y : gpu->y + GPU_HEIGHT,
	       x2 = nic->x + NIC_WIDTH / 2.0, y2 = goes_up ? nic->y + NIC_HEIGHT : nic->y;
	double bend = (y2 - y1) * 0.55;

	fprintf(picture->file,
		"<path d=\"M%.1f %.1f C%.1f %.1f %.1f %.1f %.1f %.1f\" class=\"link\" "
		"stroke=\"%s\" stroke-width=\"%.1f\"%s/>\n",
		x1, y1, x1, y1 + bend, x2, y2 - bend, x2, y2, color_of(picture, place),
		1.6 + 2.6 * pair->weight,
		pair->nearness >= KVX_NEARNESS_NODE ? " stroke-dasharray=\"9 5\"" : "");
}

static void draw_links(const struct picture *picture)
{
	for (uint32_t p = 0; p < picture->place_count; p++) {
		for (uint32_t i = 0; is_shown_place(picture, p) && i < picture->port_count; i++) {
			struct kvx_topology_pair pair = topo_pair(picture->topology, p, i);
			if (pair.use == KVX_USE_CHOSEN)
				draw_link(picture, p, i, &pair);
		}
	}
}

/* The class of the ports that the place uses; of none, of the nearest. False: there are none. */
static bool class_in_use(const struct picture *picture, uint32_t place, enum kvx_nearness *class)
{
	for (uint32_t i = 0; i < picture->port_count; i++) {
		struct kvx_topology_pair pair = topo_pair(picture->topology, place, i);
		if (pair.use == KVX_USE_CHOSEN) {
			*class = pair.nearness;
			return true;
		}
	}
	return topo_nearest(picture->topology, place, class);
}

static void draw_gpus(const struct picture *picture)
{
	for (uint32_t p = 0; p < picture->place_count; p++) {
		struct kvx_topology_place place = topo_place(picture->topology, p);
		const struct spot *spot = &picture->gpus[p];
		enum kvx_nearness class;
		if (!is_shown_place(picture, p))
			continue;
		fprintf(picture->file,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" rx=\"7\" "
			"fill=\"%s\"/>\n",
			spot->x, spot->y, GPU_WIDTH, GPU_HEIGHT, color_of(picture, p));
		put_line(picture, spot->x + 10, spot->y + 20, "name light", place.name, 16);
		if (class_in_use(picture, p, &class))
			fprintf(picture->file,
				"<text x=\"%.1f\" y=\"%.1f\" class=\"mark light\">%s</text>\n",
				spot->x + GPU_WIDTH - 10, spot->y + 20, kvx_nearness_name(class));
		put_line(picture, spot->x + 10, spot->y + 37, "small light",
			 place.pci[0] ? place.pci : "host memory", 20);
		put_line(picture, spot->x + 10, spot->y + 52, "small light", place.model, 22);
	}
}

/* Is the port chosen by anything that is shown? */
static bool is_used(const struct picture *picture, uint32_t port)
{
	for (uint32_t p = 0; p < picture->place_count; p++)
		if (is_shown_place(picture, p) &&
		    topo_pair(picture->topology, p, port).use == KVX_USE_CHOSEN)
			return true;
	return false;
}

static void describe_port(const struct kvx_topology_port *port, char *text, size_t size)
{
	if (port->state == KVX_PORT_DOWN)
		snprintf(text, size, "down");
	else if (port->fitness == KVX_PORT_MANAGEMENT)
		snprintf(text, size, "management");
	else if (port->fitness == KVX_PORT_SHADOW)
		snprintf(text, size, "virtual function");
	else if (port->speed_gbps > 0)
		snprintf(text, size, "%.4g Gb/s", port->speed_gbps);
	else if (port->pcie_gbps > 0)
		snprintf(text, size, "PCIe %.4g Gb/s", port->pcie_gbps);
	else
		text[0] = 0;
}

static void draw_nics(const struct picture *picture)
{
	uint32_t number = 0; /* as the matrix counts them */

	for (uint32_t i = 0; i < picture->port_count; i++) {
		struct kvx_topology_port port = topo_port(picture->topology, i);
		const struct spot *spot = &picture->nics[i];
		char name[2 * KVX_TOPOLOGY_NAME_MAX], about[64];
		if (!is_shown_port(picture, i))
			continue;
		bool is_down = port.state == KVX_PORT_DOWN;
		put_box(picture, spot, NIC_WIDTH, NIC_HEIGHT,
			is_down               ? "nic down"
			: is_used(picture, i) ? "nic used"
					      : "nic");
		if (port.name[0])
			topo_port_name(&port, name, sizeof(name));
		else
			snprintf(name, sizeof(name), "NIC%u", number);
		number++;
		describe_port(&port, about, sizeof(about));
		put_line(picture, spot->x + 9, spot->y + 20, "name", name, 11);
		put_line(picture, spot->x + 9, spot->y + 37, "small", port.pci, 16);
		put_line(picture, spot->x + 9, spot->y + 52, is_down ? "small alarm" : "small",
			 about, 17);
	}
}

static void draw_header(const struct picture *picture)
{
	const char *name = strrchr(picture->topo->name, '/');
	uint32_t gpus = 0, nics = 0;
	char text[128];

	for (uint32_t p = 0; p < picture->place_count; p++)
		gpus += topo_place(picture->topology, p).kind == KVX_PLACE_GPU;
	for (uint32_t i = 0; i < picture->port_count; i++)
		nics += is_shown_port(picture, i);
	put_line(picture, MARGIN, 36, "head", name ? name + 1 : picture->topo->name, 80);
	snprintf(text, sizeof(text), "%u GPU%s, %u RDMA port%s", gpus, gpus == 1 ? "" : "s", nics,
		 nics == 1 ? "" : "s");
	put_line(picture, MARGIN, 57, "small", text, sizeof(text));
}

static void draw_legend(const struct picture *picture)
{
	double y = picture->height - LEGEND + 14;

	fprintf(picture->file,
		"<path d=\"M%d %.1f h34\" class=\"link\" stroke=\"#334155\" stroke-width=\"3\"/>\n"
		"<path d=\"M%d %.1f h34\" class=\"link\" stroke=\"#334155\" stroke-width=\"3\" "
		"stroke-dasharray=\"9 5\"/>\n",
		MARGIN, y, MARGIN + 230, y);
	put_line(picture, MARGIN + 42, y + 4, "small", "chosen, within PCIe", 64);
	put_line(picture, MARGIN + 272, y + 4, "small", "chosen, through the CPU (NODE, SYS)", 64);
	put_line(
		picture, MARGIN, y + 26, "small",
		"PIX same switch, PXB several switches, PHB same host bridge, NODE same NUMA node, "
		"SYS across the machine",
		160);
}

static const char style[] =
	"<style>\n"
	"text{font-family:'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#1e293b}\n"
	".head{font-size:19px;font-weight:bold}.title{font-size:11px;fill:#475569}\n"
	".name{font-size:13px;font-weight:bold}.small{font-size:10.5px;fill:#475569}\n"
	".mark{font-size:11px;font-weight:bold;text-anchor:end}\n"
	".light{fill:#ffffff}.alarm{fill:#b91c1c;font-weight:bold}\n"
	".package{fill:#f1f5f9;stroke:#94a3b8}.numa{fill:#e2e8f0;stroke:#94a3b8}\n"
	".host{fill:#f8fafc;stroke:#a8b3c2;stroke-dasharray:4 3}\n"
	".switch{fill:#fef9e7;stroke:#d6b75c}\n"
	".nic{fill:#ffffff;stroke:#94a3b8}.used{fill:#dbeafe;stroke:#2563eb;stroke-width:1.6}\n"
	".down{fill:#fee2e2;stroke:#dc2626}\n"
	".link{fill:none;stroke-opacity:0.85}\n"
	"</style>\n";

static void draw(const struct picture *picture)
{
	fprintf(picture->file,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
		"viewBox=\"0 0 %.0f %.0f\">\n%s"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
		picture->width, picture->height, picture->width, picture->height, style);
	draw_header(picture);
	draw_boxes(picture);
	draw_links(picture);
	draw_gpus(picture);
	draw_nics(picture);
	draw_legend(picture);
	fputs("</svg>\n", picture->file);
}

static bool has_gpus(const struct kvx_topology *topology)
{
	for (uint32_t p = 0; p < kvx_topology_place_count(topology); p++)
		if (topo_place(topology, p).kind == KVX_PLACE_GPU)
			return true;
	return false;
}

int topo_write_svg(const struct topo *topo, FILE *file)
{
	struct picture picture = {
		.topo = topo,
		.topology = topo->topology,
		.file = file,
		.box_count = kvx_topology_box_count(topo->topology),
		.place_count = kvx_topology_place_count(topo->topology),
		.port_count = kvx_topology_port_count(topo->topology),
		.shows_memory = !has_gpus(topo->topology),
	};
	int error = 1;

	picture.areas = calloc(picture.box_count + 1, sizeof(*picture.areas));
	picture.gpus = calloc(picture.place_count + 1, sizeof(*picture.gpus));
	picture.nics = calloc(picture.port_count + 1, sizeof(*picture.nics));
	if (picture.areas && picture.gpus && picture.nics) {
		count_things(&picture);
		pick_boxes(&picture);
		measure(&picture);
		place_rows(&picture);
		draw(&picture);
		error = ferror(file) != 0;
	}
	free(picture.areas);
	free(picture.gpus);
	free(picture.nics);
	return error;
}
