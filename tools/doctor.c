/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-doctor: what is wrong with a node, and what to do. See docs/doctor.md. */
#include "doctor.h"

#include <argp.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Exit status; 0 to 2 follow from the worst finding. */
enum { STATUS_FINE, STATUS_WARNING, STATUS_ERROR, STATUS_FAILED };

enum {
	KEY_JSON = 0x100,
	KEY_SECRET,
	KEY_OPTION,
	KEY_PEER,
	KEY_LISTEN,
	KEY_NETWORK,
};

static const struct argp_option options[] = {
	{"json", KEY_JSON, "FILE", 0, "write JSON in place of text; -: to stdout", 0},
	{"option", KEY_OPTION, "NAME=VALUE", 0,
	 "an option of the engine that is to run here; may be repeated", 0},
	{"secret", KEY_SECRET, "FILE", 0, "see whether this file is its owner's alone", 0},
	{"peer", KEY_PEER, "HOST:PORT", 0,
	 "also try the way to a node where kvxfer-doctor --listen runs: reach, bandwidth of each "
	 "rail, path MTU",
	 0},
	{"listen", KEY_LISTEN, "HOST:PORT", 0,
	 "only answer kvxfer-doctor --peer of other nodes, until it is ended; port 0: a free one",
	 0},
	{"unauthenticated-network", KEY_NETWORK, NULL, 0,
	 "let --listen listen beyond loopback: whoever reaches it can make it receive bytes into "
	 "memory of its own",
	 0},
	{0},
};

/* --------------------------------------------------------------------------------- arguments */

static error_t add_option(struct doctor *doctor, char *text, struct argp_state *state)
{
	if (!strchr(text, '=') || text[0] == '=')
		argp_error(state, "--option wants NAME=VALUE, not \"%s\"", text);
	if (doctor->option_count == DOCTOR_OPTIONS_MAX)
		argp_error(state, "at most %u options", DOCTOR_OPTIONS_MAX);
	doctor->option_texts[doctor->option_count++] = text;
	return 0;
}

static void check_arguments(const struct doctor *doctor, struct argp_state *state)
{
	if (doctor->listen && (doctor->peer || doctor->json || doctor->secret))
		argp_error(state, "--listen only answers: it goes with --option and "
				  "--unauthenticated-network alone");
	if (doctor->unauthenticated_network && !doctor->listen)
		argp_error(state, "--unauthenticated-network goes with --listen");
}

static error_t parse(int key, char *argument, struct argp_state *state)
{
	struct doctor *doctor = state->input;

	switch (key) {
	case KEY_JSON:
		doctor->json = argument;
		return 0;
	case KEY_SECRET:
		doctor->secret = argument;
		return 0;
	case KEY_OPTION:
		return add_option(doctor, argument, state);
	case KEY_PEER:
		doctor->peer = argument;
		return 0;
	case KEY_LISTEN:
		doctor->listen = argument;
		return 0;
	case KEY_NETWORK:
		doctor->unauthenticated_network = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "no argument is expected, but there is \"%s\"", argument);
		return EINVAL;
	case ARGP_KEY_END:
		check_arguments(doctor, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int set_option(struct kvx_options *set, const char *text)
{
	const char *value = strchr(text, '=') + 1;
	char name[DOCTOR_NAME_MAX + 1];

	snprintf(name, sizeof(name), "%.*s", (int)(value - text - 1), text);
	return kvx_options_set(set, name, value);
}

struct kvx_options *doctor_options(const struct doctor *doctor)
{
	struct kvx_options *set;

	if (kvx_options_new(&set))
		return NULL;
	for (uint32_t i = 0; i < doctor->option_count; i++)
		if (set_option(set, doctor->option_texts[i])) {
			kvx_options_free(set);
			return NULL;
		}
	return set;
}

/* ---------------------------------------------------------------------------------- findings */

static void add(void *context, const struct kvx_finding *finding)
{
	struct doctor *doctor = context;
	struct doctor_finding *more =
		realloc(doctor->findings, (doctor->finding_count + 1) * sizeof(*doctor->findings));

	if (!more) {
		doctor->lost = true;
		return;
	}
	doctor->findings = more;
	struct doctor_finding *mine = &more[doctor->finding_count++];
	mine->severity = finding->severity;
	snprintf(mine->area, sizeof(mine->area), "%s", finding->area);
	snprintf(mine->found, sizeof(mine->found), "%s", finding->found);
	snprintf(mine->action, sizeof(mine->action), "%s", finding->action);
}

void doctor_tell(struct doctor *doctor, enum kvx_severity severity, const char *area,
		 const char *action, const char *format, ...)
{
	char found[DOCTOR_TEXT_MAX + 1];
	const struct kvx_finding finding = {severity, area, found, action};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(found, sizeof(found), format, arguments);
	va_end(arguments);
	add(doctor, &finding);
}

enum kvx_severity doctor_worst(const struct doctor *doctor)
{
	enum kvx_severity worst = KVX_SEVERITY_OK;

	for (uint32_t i = 0; i < doctor->finding_count; i++)
		if (doctor->findings[i].severity > worst)
			worst = doctor->findings[i].severity;
	return worst;
}

/* ------------------------------------------------------------------------------------ output */

static int complain(const char *why)
{
	fprintf(stderr, "kvxfer-doctor: %s\n", why);
	return STATUS_FAILED;
}

static int complain_of(const char *file, const char *why)
{
	fprintf(stderr, "kvxfer-doctor: %s: %s\n", file, why);
	return STATUS_FAILED;
}

static int write_all(const struct doctor *doctor)
{
	bool is_file = doctor->json && strcmp(doctor->json, "-") != 0;
	const char *name = is_file ? doctor->json : "output";
	FILE *file = is_file ? fopen(doctor->json, "we") : stdout;

	if (!file)
		return complain_of(name, strerror(errno));
	int error =
		doctor->json ? doctor_write_json(doctor, file) : doctor_write_text(doctor, file);
	if (is_file ? fclose(file) : fflush(file))
		error = 1;
	return error ? complain_of(name, "cannot be written in full") : 0;
}

static int status_of(const struct doctor *doctor)
{
	switch (doctor_worst(doctor)) {
	case KVX_SEVERITY_WARNING:
		return STATUS_WARNING;
	case KVX_SEVERITY_ERROR:
		return STATUS_ERROR;
	default:
		return STATUS_FINE;
	}
}

static int check(struct doctor *doctor, const struct kvx_options *set)
{
	if (kvx_doctor_run(set, doctor->secret, add, doctor) < 0)
		return complain(kvx_error_text());
	if (doctor->peer)
		doctor_peer_check(doctor);
	if (doctor->lost)
		return complain("out of memory");
	int failed = write_all(doctor);
	return failed ? failed : status_of(doctor);
}

int main(int count, char **arguments)
{
	static const struct argp parser = {
		options,
		parse,
		NULL,
		"Finds what is wrong with a node: tries what an engine would do, and says what to "
		"change."
		"\vExit status: 0 if all is well or there are only notes, 1 if the worst finding "
		"is a warning, 2 if it is an error, 3 if the arguments are wrong or the program "
		"itself failed.",
		NULL,
		NULL,
		NULL,
	};
	struct doctor doctor = {0};
	int status;

	argp_err_exit_status = STATUS_FAILED;
	if (argp_parse(&parser, count, arguments, 0, NULL, &doctor))
		return STATUS_FAILED;
	struct kvx_options *set = doctor_options(&doctor);
	if (!set)
		status = complain(kvx_error_text());
	else
		status = doctor.listen ? doctor_listen_run(&doctor) : check(&doctor, set);
	kvx_options_free(set);
	free(doctor.findings);
	return status;
}
