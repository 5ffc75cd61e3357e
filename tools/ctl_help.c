/* SPDX-License-Identifier: Apache-2.0 */
/* What --help prints. */
#include "ctl.h"

#include <string.h>

#define COMMAND_COLUMNS 36
#define OPTION_COLUMNS 24

const struct ctl_option_info ctl_option_infos[CTL_OPTIONS] = {
	[CTL_SOCKET] = {"socket", "PATH",
			"the engine's control socket, a folder that holds one alone, or a URL"},
	[CTL_URL] = {"url", "URL",
		     "where the engine listens over TCP: https://HOST:PORT, or http://HOST:PORT"},
	[CTL_SECRET] = {"secret", "FILE", "the cluster's secret, for https"},
	[CTL_JSON] = {"json", NULL, "print the engine's JSON as it is"},
	[CTL_HELP] = {"help", NULL, "print this, or after a command what it takes"},
	[CTL_VERSION] = {"version", NULL, "print the version"},
	[CTL_AFTER] = {"after", "N", "only events with numbers above N"},
	[CTL_BLOCKS] = {"blocks", "BLOCKS", "of the sender's pool, as 0-15,32"},
	[CTL_CHUNK] = {"chunk", "N", "the prefill computes so many tokens of all layers at a time"},
	[CTL_COUNT] = {"count", "N", "end after so many"},
	[CTL_DEADLINE] = {"deadline", "MS", "what goes on longer is overdue (default 30000)"},
	[CTL_DRAIN] = {"drain", "MS",
		       "time for senders to stop by themselves (default: the "
		       "engine's)"},
	[CTL_FOLLOW] = {"follow", NULL, "go on with events as they happen"},
	[CTL_FROM] = {"from", "PATH", "control socket, folder or URL of the sender"},
	[CTL_FROM_POOL] = {"from-pool", "ID", "the sender's pool (default: its only one)"},
	[CTL_HELD] = {"held", "N", "the first so many blocks hold their tokens already"},
	[CTL_INTERVAL] = {"interval", "S", "seconds between two views (default 1)"},
	[CTL_LAYER] = {"layer", "N|tail", "wait for this layer, or the tail (default: for all)"},
	[CTL_LEASE] = {"lease", "MS", "how long it stays open if nothing comes (default 30000)"},
	[CTL_PULL] = {"pull", "TICKET", "have the offer of this ticket feed it; may be several"},
	[CTL_PULL_MOVE] = {"pull", NULL, "the receiver pulls; default: the sender pushes"},
	[CTL_READY] = {"ready", NULL, "all layers are computed already"},
	[CTL_SENDERS] = {"senders", "N", "so many engines feed it together"},
	[CTL_TAIL] = {"tail", "REGION:OFFSET:BYTES",
		      "what moves after the layers, and where it "
		      "lies"},
	[CTL_TICKET] = {"ticket", NULL, "print the ticket alone"},
	[CTL_TIMEOUT] = {"timeout", "MS", "wait no longer (default 60000)"},
	[CTL_TO] = {"to", "PATH", "control socket, folder or URL of the receiver"},
	[CTL_TO_BLOCKS] = {"to-blocks", "BLOCKS", "of the receiver's pool"},
	[CTL_TO_POOL] = {"to-pool", "ID", "the receiver's pool (default: its only one)"},
	[CTL_TOKENS] = {"tokens", "N", "so many, if the last block is not full"},
	[CTL_VERIFY] = {"verify", NULL, "compare checksums of both ends"},
	[CTL_WAIT] = {"wait", NULL, "wait until nothing goes on, or the deadline has passed"},
	[CTL_WAIT_TIME] = {"wait", "MS", "wait until it is connected, no longer than that"},
};

static void print_option(int option, const char *indent)
{
	const struct ctl_option_info *info = &ctl_option_infos[option];
	char name[64];

	snprintf(name, sizeof(name), "--%s%s%s", info->name, info->argument ? "=" : "",
		 info->argument ? info->argument : "");
	printf("%s%-*s %s\n", indent, OPTION_COLUMNS, name, info->help);
}

static void name_command(const struct ctl_command *command, char *name, size_t size)
{
	bool is_free = command->least < command->most;

	snprintf(name, size, "%s%s%s%s%s", command->name, command->arguments ? " " : "",
		 command->arguments && is_free ? "[" : "",
		 command->arguments ? command->arguments : "",
		 command->arguments && is_free ? "]" : "");
}

static void print_command(const struct ctl_command *command)
{
	char name[96];

	name_command(command, name, sizeof(name));
	printf("  %-*s %s\n", COMMAND_COLUMNS, name, command->help);
	for (int i = CTL_VERSION + 1; i < CTL_OPTIONS; i++)
		if (command->options >> i & 1)
			print_option(i, "      ");
}

static void print_rest(void)
{
	printf("\nEvery command:\n");
	for (int i = 0; i <= CTL_VERSION; i++)
		print_option(i, "  ");
	printf("\nBLOCKS are numbers and ranges, as 0-15,32. A TICKET is the text, @FILE, or - for "
	       "standard\ninput. Without --socket and --url the engine is the one of "
	       "KVXFERCTL_SOCKET.\n\n"
	       "Exit status: 0 done, 1 the request or transfer failed, 2 the arguments are wrong, "
	       "3 "
	       "the engine\ncannot be reached.\n");
}

void ctl_help(void)
{
	printf("Usage: kvxferctl [--socket=PATH] COMMAND [ARGUMENT ...] [OPTION ...]\n"
	       "Looks at engines and drives them over their control sockets.\n\n"
	       "Commands:\n");
	for (const struct ctl_command *command = ctl_commands; command->name; command++)
		print_command(command);
	print_rest();
}

void ctl_help_command(const struct ctl_command *command)
{
	char name[96];

	name_command(command, name, sizeof(name));
	printf("Usage: kvxferctl [--socket=PATH] %s [OPTION ...]\n\n", name);
	print_command(command);
	print_rest();
}
