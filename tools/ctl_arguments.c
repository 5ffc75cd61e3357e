/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: which command, its arguments, its options and their ranges. */
#include "ctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define KEY 0x100
#define BIT(option) (UINT64_C(1) << (option))

static const uint64_t global = BIT(CTL_SOCKET) | BIT(CTL_URL) | BIT(CTL_SECRET) | BIT(CTL_JSON) |
			       BIT(CTL_HELP) | BIT(CTL_VERSION);

const struct ctl_command ctl_commands[] = {
	{"status", NULL, 0, 0, 1, 0, ctl_status, "what the engine is, has, and has done"},
	{"options", "NAME=VALUE ...", 0, 64, 1, 0, ctl_options,
	 "all options; those that are named are changed first"},
	{"topology", NULL, 0, 0, 1, 0, ctl_topology,
	 "memory places, ports, which are chosen, and why"},
	{"regions", NULL, 0, 0, 1, 0, ctl_regions, "registered memory"},
	{"pools", "ID", 0, 1, 1, 0, ctl_pools, "the pools, or all of one"},
	{"checksum", "POOL BLOCKS", 2, 2, 1, 0, ctl_checksum,
	 "a number over each layer of these blocks, equal at both ends of a request"},
	{"peers", "ID", 0, 1, 1, 0, ctl_peers, "the peers, or one with its rails"},
	{"peers connect", "ADDRESS", 1, 1, 1, BIT(CTL_WAIT_TIME), ctl_peers_connect,
	 "connect to an engine, by the address that its status tells"},
	{"peers forget", "ID", 1, 1, 1, 0, ctl_peers_forget,
	 "end the connection with a peer, and whatever goes on over it"},
	{"grants", "ID", 0, 1, 1, BIT(CTL_TICKET), ctl_grants,
	 "the grants, or one with its layers and ticket"},
	{"grants open", "POOL BLOCKS", 2, 2, 1,
	 BIT(CTL_LEASE) | BIT(CTL_TOKENS) | BIT(CTL_HELD) | BIT(CTL_SENDERS) | BIT(CTL_TAIL) |
		 BIT(CTL_PULL) | BIT(CTL_TICKET),
	 ctl_grants_open, "grant blocks to a sender, who needs the ticket"},
	{"grants wait", "ID", 1, 1, 1, BIT(CTL_LAYER) | BIT(CTL_TIMEOUT), ctl_grants_wait,
	 "wait until a grant, or a layer of it, is whole"},
	{"grants pull", "ID TICKET", 2, 2, 1, 0, ctl_grants_pull,
	 "have the offer of a ticket feed a grant"},
	{"grants revoke", "ID", 1, 1, 1, BIT(CTL_DRAIN), ctl_grants_revoke,
	 "end a grant, wait until no byte of it lands any more, and close it"},
	{"streams", "ID", 0, 1, 1, BIT(CTL_TICKET), ctl_streams,
	 "the streams and offers, or one with its layers"},
	{"streams open", "POOL BLOCKS TICKET", 3, 3, 1,
	 BIT(CTL_CHUNK) | BIT(CTL_TAIL) | BIT(CTL_READY), ctl_streams_open,
	 "push blocks into the grant of a ticket"},
	{"streams ready", "ID LAYERS", 2, 2, 1, BIT(CTL_TOKENS), ctl_streams_ready,
	 "tell that layers are computed: 0-15, all or tail"},
	{"streams wait", "ID", 1, 1, 1, BIT(CTL_LAYER) | BIT(CTL_TIMEOUT), ctl_streams_wait,
	 "wait until a stream, or a layer of it, is delivered"},
	{"streams cancel", "ID", 1, 1, 1, 0, ctl_streams_cancel,
	 "end a stream or offer, wait until nothing reads its blocks, and close it"},
	{"offers open", "POOL BLOCKS", 2, 2, 1,
	 BIT(CTL_LEASE) | BIT(CTL_CHUNK) | BIT(CTL_TAIL) | BIT(CTL_READY) | BIT(CTL_TICKET),
	 ctl_offers_open, "offer blocks to a receiver, who pulls them by the ticket"},
	{"drain", NULL, 0, 0, 1, BIT(CTL_DEADLINE) | BIT(CTL_WAIT), ctl_drain,
	 "refuse new grants, streams and offers from now on; those that are open go on"},
	{"resume", NULL, 0, 0, 1, 0, ctl_resume, "take new ones again"},
	{"events", NULL, 0, 0, 1, BIT(CTL_FOLLOW) | BIT(CTL_AFTER) | BIT(CTL_COUNT), ctl_events,
	 "what has happened"},
	{"metrics", NULL, 0, 0, 1, 0, ctl_metrics, "figures as Prometheus reads them"},
	{"get", "PATH", 1, 1, 1, 0, ctl_get, "the answer to GET PATH, as it comes"},
	{"list", "FOLDER", 1, 1, 0, 0, ctl_list, "the engines whose sockets a folder holds"},
	{"watch", NULL, 0, 0, CTL_PLACES_MAX, BIT(CTL_INTERVAL) | BIT(CTL_COUNT), ctl_watch,
	 "a live view of engines: peers, rails, transfers, events"},
	{"move", NULL, 0, 0, 0,
	 BIT(CTL_FROM) | BIT(CTL_TO) | BIT(CTL_BLOCKS) | BIT(CTL_TO_BLOCKS) | BIT(CTL_FROM_POOL) |
		 BIT(CTL_TO_POOL) | BIT(CTL_LEASE) | BIT(CTL_CHUNK) | BIT(CTL_PULL_MOVE) |
		 BIT(CTL_VERIFY),
	 ctl_move, "move blocks of one engine's pool into another's"},
	{"credentials", NULL, 0, 0, 0, 0, ctl_credentials,
	 "print what a secret gives to a client, as lines of shell"},
	{NULL, NULL, 0, 0, 0, 0, NULL, NULL},
};

/* --- values --- */

struct range {
	enum ctl_option option;
	uint64_t low, high;
};

static const struct range ranges[] = {
	{CTL_AFTER, 0, INT64_MAX},
	{CTL_CHUNK, 0, UINT32_MAX},
	{CTL_COUNT, 1, UINT32_MAX},
	{CTL_DEADLINE, 1, KVX_TIMEOUT_MAX_MS},
	{CTL_DRAIN, 0, KVX_TIMEOUT_MAX_MS},
	{CTL_FROM_POOL, 1, INT64_MAX},
	{CTL_HELD, 0, UINT32_MAX},
	{CTL_LEASE, 1, KVX_TIMEOUT_MAX_MS},
	{CTL_SENDERS, 1, KVX_SENDERS_MAX},
	{CTL_TIMEOUT, 0, KVX_TIMEOUT_MAX_MS},
	{CTL_TO_POOL, 1, INT64_MAX},
	{CTL_TOKENS, 1, UINT32_MAX},
	{CTL_WAIT_TIME, 0, KVX_TIMEOUT_MAX_MS},
};

static int wrong_value(enum ctl_option option, const char *text, const char *must)
{
	return ctl_fail(CTL_USAGE, "--%s=%s: must be %s", ctl_option_infos[option].name, text,
			must);
}

static int read_interval(const char *text, uint64_t *ms)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0.1 && seconds <= 3600))
		return wrong_value(CTL_INTERVAL, text, "a number of seconds from 0.1 to 3600");
	*ms = (uint64_t)(seconds * 1000);
	return 0;
}

static int take_value(struct ctl *ctl, enum ctl_option option, const char *text)
{
	struct ctl_value *value = &ctl->values[option];
	uint64_t layer;

	value->text = text ? text : "";
	for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
		char must[80];
		const struct range *range = &ranges[i];
		if (range->option != option ||
		    ctl_read_number(text, range->low, range->high, &value->number))
			continue;
		snprintf(must, sizeof(must), "a number from %" PRIu64 " to %" PRIu64, range->low,
			 range->high);
		return wrong_value(option, text, must);
	}
	switch (option) {
	case CTL_INTERVAL:
		return read_interval(text, &value->number);
	case CTL_LAYER:
		if (strcmp(text, "tail") != 0 &&
		    !ctl_read_number(text, 0, KVX_LAYERS_MAX - 1, &layer))
			return wrong_value(option, text, "the number of a layer, or tail");
		return 0;
	case CTL_SOCKET:
		if (ctl->socket_count + 1 >= CTL_PLACES_MAX)
			return ctl_fail(CTL_USAGE, "--socket: at most %u can be given",
					CTL_PLACES_MAX - 1);
		ctl->sockets[ctl->socket_count++] = text;
		return 0;
	case CTL_PULL:
		if (ctl->pull_count == KVX_SENDERS_MAX)
			return ctl_fail(CTL_USAGE, "--pull: at most %u can be given",
					KVX_SENDERS_MAX);
		ctl->pulls[ctl->pull_count++] = text;
		return 0;
	default:
		return 0;
	}
}

/* --- options --- */

static void list_options(uint64_t options, struct option *list)
{
	uint32_t count = 0;

	for (int i = 0; i < CTL_OPTIONS; i++) {
		const struct ctl_option_info *info = &ctl_option_infos[i];
		if (options & BIT(i))
			list[count++] = (struct option){
				info->name, info->argument ? required_argument : no_argument, NULL,
				KEY + i};
	}
	list[count] = (struct option){NULL, 0, NULL, 0};
}

static int wrong_option(const char *argument, int found, const struct ctl_command *command)
{
	const char *help = command ? command->name : "";

	if (found == ':')
		return ctl_fail(CTL_USAGE, "%s: needs a value: see kvxferctl%s%s --help", argument,
				help[0] ? " " : "", help);
	if (command)
		return ctl_fail(CTL_USAGE, "%s: is no option of %s: see kvxferctl %s --help",
				argument, help, help);
	return ctl_fail(CTL_USAGE,
			"%s: is no option that stands before a command: see kvxferctl --help",
			argument);
}

/* Those of `arguments` from the second on, up to the first word if there is no command yet. Returns
 * the index of the first word, or below 0: told. */
static int read_options(struct ctl *ctl, int count, char **arguments,
			const struct ctl_command *command)
{
	struct option list[CTL_OPTIONS + 1];
	int found;

	list_options(global | (command ? command->options : 0), list);
	optind = 0; /* begins anew */
	opterr = 0;
	while ((found = getopt_long(count, arguments, command ? ":" : "+:", list, NULL)) != -1) {
		if (found < KEY) {
			wrong_option(arguments[optind - 1], found, command);
			return -1;
		}
		if (take_value(ctl, (enum ctl_option)(found - KEY), optarg))
			return -1;
	}
	return optind;
}

/* --- commands --- */

static bool is_command(const struct ctl_command *command, const char *first, const char *second)
{
	size_t length = strlen(first);

	if (strncmp(command->name, first, length) != 0)
		return false;
	if (!second)
		return command->name[length] == 0;
	return command->name[length] == ' ' && strcmp(command->name + length + 1, second) == 0;
}

static const struct ctl_command *find_command(const char *first, const char *second)
{
	for (const struct ctl_command *command = ctl_commands; command->name; command++)
		if (is_command(command, first, second))
			return command;
	return NULL;
}

static int check_words(const struct ctl *ctl, const struct ctl_command *command)
{
	if (ctl->word_count >= command->least && ctl->word_count <= command->most)
		return 0;
	if (ctl->word_count < command->least)
		return ctl_fail(CTL_USAGE, "%s: needs %s", command->name, command->arguments);
	return ctl_fail(CTL_USAGE, "%s: \"%s\" is more than it takes: see kvxferctl %s --help",
			command->name, ctl->words[command->most], command->name);
}

static int no_command(const char *first, const char *second)
{
	if (second && !find_command(first, NULL))
		for (const struct ctl_command *command = ctl_commands; command->name; command++)
			if (strncmp(command->name, first, strlen(first)) == 0 &&
			    command->name[strlen(first)] == ' ')
				return ctl_fail(CTL_USAGE,
						"%s %s: no such command: see kvxferctl --help",
						first, second);
	return ctl_fail(CTL_USAGE, "%s: no such command: see kvxferctl --help", first);
}

static bool is_told(const struct ctl *ctl, const struct ctl_command *command)
{
	if (ctl_has(ctl, CTL_VERSION)) {
		printf("kvxferctl %s\n", KVX_VERSION);
	} else if (!ctl_has(ctl, CTL_HELP)) {
		return false;
	} else if (command) {
		ctl_help_command(command);
	} else {
		ctl_help();
	}
	return true;
}

int ctl_arguments_read(struct ctl *ctl, int count, char **arguments,
		       const struct ctl_command **command)
{
	int first = read_options(ctl, count, arguments, NULL);

	*command = NULL;
	if (first < 0)
		return CTL_USAGE;
	if (is_told(ctl, NULL))
		return 0;
	if (first == count)
		return ctl_fail(CTL_USAGE, "which command? See kvxferctl --help");
	const char *word = arguments[first],
		   *next = first + 1 < count ? arguments[first + 1] : NULL;
	const struct ctl_command *found = next ? find_command(word, next) : NULL;
	if (found)
		first++;
	else
		found = find_command(word, NULL);
	if (!found)
		return no_command(word, next);
	int words = read_options(ctl, count - first, arguments + first, found);
	if (words < 0)
		return CTL_USAGE;
	if (is_told(ctl, found))
		return 0;
	ctl->command = found->name;
	ctl->words = arguments + first + words;
	ctl->word_count = (uint32_t)(count - first - words);
	int status = check_words(ctl, found);
	if (!status)
		*command = found;
	return status;
}
