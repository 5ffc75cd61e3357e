/* SPDX-License-Identifier: Apache-2.0 */
/* The side that asks: reach, path MTU, and the bandwidth of each rail towards the peer. */
#include "doctor.h"

#include <kvxfer/topology.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECT_LIMIT_MS 5000
#define HELLO_LIMIT_MS 5000
#define ANSWER_LIMIT_MS 30000 /* opening devices takes its time */
#define TRANSFERS 5u
#define FIRST_BLOCKS 4u
#define AIM_S 0.05 /* of one transfer: long beside its beginning and end */
#define FAR_SLOWER 0.5

/* What is to be tried. */
struct rail {
	const char *transport;
	char device[DOCTOR_NAME_MAX + 1]; /* for verbs_devices, or "" */
	double speed_gbps;                /* of the port; 0: not known */
};

struct asking {
	struct doctor *doctor;
	struct doctor_channel *channel;
	struct rail rails[DOCTOR_RAILS_MAX];
	uint32_t rail_count;
};

struct measured {
	double gbytes_per_s;
	uint32_t blocks;
	char explained[DOCTOR_TEXT_MAX + 1];
	char why[DOCTOR_TEXT_MAX + 1]; /* it failed */
	bool is_absent;                /* because the peer has no such transport */
	bool is_here;                  /* because this node's engine does not open */
};

/* NULL: the channel says why, and ends, so that no late answer is taken for the next one. */
static json_t *ask(const struct asking *asking, json_t *request, int limit_ms)
{
	json_t *said = NULL;

	if (doctor_send(asking->channel, request) == 0)
		said = doctor_receive(asking->channel, limit_ms, NULL);
	if (!said) {
		shutdown(asking->channel->fd, SHUT_RDWR);
		asking->channel->used = 0;
	}
	return said;
}

/* As ask(), where the answer may be a refusal. NULL: why holds either. */
static json_t *ask_for(const struct asking *asking, json_t *request, struct measured *measured)
{
	json_t *said = ask(asking, request, ANSWER_LIMIT_MS);
	char code[DOCTOR_NAME_MAX + 1], text[DOCTOR_TEXT_MAX / 2];

	if (!said) {
		snprintf(measured->why, sizeof(measured->why), "%s", asking->channel->why);
		return NULL;
	}
	if (!json_object_get(said, "error"))
		return said;
	doctor_text_of(said, "code", code, sizeof(code));
	doctor_text_of(said, "error", text, sizeof(text));
	json_decref(said);
	measured->is_absent = strcmp(code, "KVX_E_UNSUPPORTED") == 0;
	snprintf(measured->why, sizeof(measured->why), "the peer says: %s", text);
	return NULL;
}

/* ------------------------------------------------------------------------------------- rails */

static struct rail *add_rail(struct asking *asking, const char *transport)
{
	if (asking->rail_count == DOCTOR_RAILS_MAX)
		return NULL;
	struct rail *rail = &asking->rails[asking->rail_count++];
	*rail = (struct rail){.transport = transport};
	return rail;
}

static void add_ports(struct asking *asking)
{
	struct kvx_topology *topology;
	struct kvx_topology_port port;

	if (kvx_topology_open(NULL, NULL, &topology)) {
		doctor_tell(asking->doctor, KVX_SEVERITY_WARNING, "peer",
			    "name the devices by --option verbs_devices=...",
			    "ports of this node cannot be found: %s", kvx_error_text());
		return;
	}
	for (uint32_t i = 0; kvx_topology_port(topology, i, &port) == 0; i++) {
		if (port.fitness != KVX_PORT_FIT || port.state == KVX_PORT_DOWN || !port.name[0])
			continue;
		struct rail *rail = add_rail(asking, "verbs");
		if (!rail)
			break;
		snprintf(rail->device, sizeof(rail->device), "%s:%u", port.name, port.number);
		rail->speed_gbps = port.speed_gbps;
	}
	kvx_topology_close(topology);
}

static void add_listed(struct asking *asking, const char *devices)
{
	for (const char *at = devices; *at;) {
		size_t length = strcspn(at, ",");
		struct rail *rail = add_rail(asking, "verbs");
		if (!rail)
			return;
		snprintf(rail->device, sizeof(rail->device), "%.*s", (int)length, at);
		at += length + (at[length] == ',');
	}
}

static void find_rails(struct asking *asking)
{
	struct kvx_options *options = doctor_options(asking->doctor);
	const char *devices = options ? kvx_options_get(options, "verbs_devices") : NULL;

	add_rail(asking, "tcp");
	if (devices && devices[0])
		add_listed(asking, devices);
	else
		add_ports(asking);
	kvx_options_free(options);
}

/* -------------------------------------------------------------------------------- bandwidth */

static int set(struct kvx_options *options, const char *name, const char *value)
{
	return options ? kvx_options_set(options, name, value) : -1;
}

static int open_here(const struct asking *asking, const struct rail *rail, struct doctor_end *end)
{
	struct kvx_options *options = doctor_options(asking->doctor);

	if (set(options, "transports", rail->transport) || set(options, "progress", "thread") ||
	    set(options, "topology", "off") || set(options, "listen", "127.0.0.1:0") ||
	    set(options, "verbs_listen", "") || set(options, "verbs_devices", rail->device)) {
		kvx_options_free(options);
		return KVX_E_INVALID;
	}
	return doctor_end_open(end, options);
}

/* One transfer; -1: why says what failed. */
static int transfer(const struct asking *asking, const struct doctor_end *end, uint32_t blocks,
		    double *seconds, struct measured *measured)
{
	json_t *said = ask_for(asking, json_pack("{s:s, s:i}", "ask", "grant", "blocks", blocks),
			       measured);
	const char *ticket = json_string_value(json_object_get(said, "ticket"));

	if (!said)
		return -1;
	int error = doctor_end_send(end, ticket ? ticket : "", blocks, seconds, measured->explained,
				    sizeof(measured->explained));
	json_decref(said);
	if (error)
		snprintf(measured->why, sizeof(measured->why), "%s", kvx_error_text());
	return error ? -1 : 0;
}

static int by_size(const void *a, const void *b)
{
	const double *left = a, *right = b;

	return (*left > *right) - (*left < *right);
}

static uint32_t blocks_for(double first_s)
{
	double blocks = first_s > 0 ? FIRST_BLOCKS * AIM_S / first_s : DOCTOR_BLOCKS;

	if (blocks >= DOCTOR_BLOCKS)
		return DOCTOR_BLOCKS;
	return blocks > FIRST_BLOCKS ? (uint32_t)blocks : FIRST_BLOCKS;
}

/* The first makes the connection, the second tells how many blocks are worth measuring. */
static int transfer_all(const struct asking *asking, const struct doctor_end *end,
			struct measured *measured)
{
	double seconds[TRANSFERS];

	for (int i = 0; i < 2; i++)
		if (transfer(asking, end, FIRST_BLOCKS, &seconds[0], measured))
			return -1;
	measured->blocks = blocks_for(seconds[0]);
	for (uint32_t i = 0; i < TRANSFERS; i++)
		if (transfer(asking, end, measured->blocks, &seconds[i], measured))
			return -1;
	qsort(seconds, TRANSFERS, sizeof(seconds[0]), by_size);
	double median = seconds[TRANSFERS / 2];
	measured->gbytes_per_s =
		median > 0 ? (double)measured->blocks * DOCTOR_BLOCK_BYTES / median / 1e9 : 0;
	return 0;
}

static int measure(const struct asking *asking, const struct rail *rail, struct measured *measured)
{
	struct doctor_end end = {0};

	if (open_here(asking, rail, &end)) {
		snprintf(measured->why, sizeof(measured->why), "%s", kvx_error_text());
		measured->is_here = true;
		return -1;
	}
	json_t *said = ask_for(asking,
			       json_pack("{s:s, s:s}", "ask", "open", "transport", rail->transport),
			       measured);
	int error = said ? transfer_all(asking, &end, measured) : -1;
	json_decref(said);
	doctor_end_close(&end);
	return error;
}

static void tell_failure(struct doctor *doctor, const char *name, bool is_verbs,
			 const struct measured *measured)
{
	const char *action = "open the TCP ports of engines between the nodes (option listen) in "
			     "the firewall";

	if (measured->is_absent) {
		doctor_tell(doctor, KVX_SEVERITY_NOTE, "peer",
			    "nothing, where the peer is meant to have none", "%s: %s", name,
			    measured->why);
		return;
	}
	if (is_verbs)
		action = "see that the ports at both ends are up, on one network, and reach each "
			 "other (ping over the rail's interfaces, ib_write_bw), and that UDP port "
			 "4791 is open for RoCE";
	if (measured->is_here)
		action = "see to what is named: it is this node's own engine that does not open";
	doctor_tell(doctor, KVX_SEVERITY_ERROR, "peer", action, "%s: does not reach the peer: %s",
		    name, measured->why);
}

static void check_rail(struct asking *asking, const struct rail *rail)
{
	struct doctor *doctor = asking->doctor;
	struct measured measured = {0};
	struct doctor_rail *shown = &doctor->rails[doctor->rail_count++];
	bool is_verbs = rail->device[0];

	snprintf(shown->name, sizeof(shown->name), "%s%s%.80s", rail->transport,
		 is_verbs ? " " : "", rail->device);
	if (measure(asking, rail, &measured)) {
		tell_failure(doctor, shown->name, is_verbs, &measured);
		return;
	}
	/* The explanation begins with the plan, and ends with the way that it took. */
	const char *way = strstr(measured.explained, "transport: ");
	shown->gbytes_per_s = measured.gbytes_per_s;
	bool is_slow =
		rail->speed_gbps > 0 && 8 * measured.gbytes_per_s < FAR_SLOWER * rail->speed_gbps;
	doctor_tell(
		doctor, is_slow ? KVX_SEVERITY_WARNING : KVX_SEVERITY_OK, "peer",
		is_slow ? "compare with ib_write_bw over the same ports: if that is as slow, see "
			  "to cable, switch and PCIe (kvxfer-topo --explain)"
			: "",
		"%s: %.3g GB/s towards the peer%s, median of %u transfers of %u MiB; %.200s",
		shown->name, measured.gbytes_per_s,
		is_slow ? ", less than half of what the port has" : "", TRANSFERS,
		measured.blocks * (DOCTOR_BLOCK_BYTES >> 20), way ? way : measured.explained);
}

/* --------------------------------------------------------------------------- reach and path */

static void check_path(struct asking *asking, const json_t *hello)
{
	json_int_t port = json_integer_value(json_object_get(hello, "udp_port"));
	char token[DOCTOR_TOKEN_CHARACTERS + 1];
	struct doctor_path path = {0};
	struct doctor *doctor = asking->doctor;

	doctor_text_of(hello, "token", token, sizeof(token));
	if (port < 1 || port > UINT16_MAX || strlen(token) != DOCTOR_TOKEN_CHARACTERS ||
	    doctor_path_try(asking->channel->fd, (uint16_t)port, token, &path)) {
		doctor_tell(doctor, KVX_SEVERITY_WARNING, "peer",
			    "run the same version of kvxfer-doctor at both ends",
			    "path MTU: it cannot be tried");
		return;
	}
	doctor->path_mtu = path.found;
	if (!path.found)
		doctor_tell(doctor, KVX_SEVERITY_WARNING, "peer",
			    "open UDP between the nodes; RoCE v2 is UDP too (port 4791)",
			    "path MTU: no packet of UDP was answered");
	else if (path.found < path.local)
		doctor_tell(doctor, KVX_SEVERITY_WARNING, "peer",
			    "set the same MTU at both ends and in all switches between, and let "
			    "ICMP \"fragmentation needed\" through",
			    "path MTU: packets of %u bytes pass, and %u do not, which is what "
			    "this node takes for right",
			    path.found, path.local);
	else
		doctor_tell(doctor, KVX_SEVERITY_OK, "peer", "",
			    "path MTU: packets of %u bytes pass uncut", path.found);
}

static json_t *greet(struct asking *asking)
{
	struct doctor *doctor = asking->doctor;
	int64_t begin_ms = doctor_now_ms();
	json_t *hello = ask(asking, json_pack("{s:s}", "ask", "hello"), HELLO_LIMIT_MS);
	char version[DOCTOR_NAME_MAX + 1];

	if (json_integer_value(json_object_get(hello, "kvxfer_doctor")) != 1) {
		doctor_tell(doctor, KVX_SEVERITY_ERROR, "peer",
			    "run kvxfer-doctor --listen there; it answers one node at a time",
			    "%s: no answer of kvxfer-doctor: %s", doctor->peer,
			    hello ? "something else answers" : asking->channel->why);
		json_decref(hello);
		return NULL;
	}
	doctor_text_of(hello, "version", version, sizeof(version));
	bool is_same = strcmp(version, kvx_version()) == 0;
	doctor_tell(doctor, is_same ? KVX_SEVERITY_OK : KVX_SEVERITY_WARNING, "peer",
		    is_same ? "" : "run the same version at both ends",
		    "%s: reached; answers in %lld ms, version %s%s%s", doctor->peer,
		    (long long)(doctor_now_ms() - begin_ms), version,
		    is_same ? "" : ", and here it is ", is_same ? "" : kvx_version());
	return hello;
}

void doctor_peer_check(struct doctor *doctor)
{
	static struct doctor_channel channel;
	struct asking asking = {.doctor = doctor, .channel = &channel};
	char why[DOCTOR_TEXT_MAX + 1];

	channel = (struct doctor_channel){.fd = doctor_connect(doctor->peer, CONNECT_LIMIT_MS, why),
					  .line_max = DOCTOR_LINE_MAX};
	if (channel.fd < 0) {
		doctor_tell(doctor, KVX_SEVERITY_ERROR, "peer",
			    "run kvxfer-doctor --listen there; see routes (ip route get), firewall "
			    "and the address",
			    "%s", why);
		return;
	}
	json_t *hello = greet(&asking);
	if (hello) {
		check_path(&asking, hello);
		find_rails(&asking);
		for (uint32_t i = 0; i < asking.rail_count; i++)
			check_rail(&asking, &asking.rails[i]);
	}
	json_decref(hello);
	close(channel.fd);
}
