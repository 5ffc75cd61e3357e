/* SPDX-License-Identifier: Apache-2.0 */
/* test-sim: runs seeds, or one of them with a trace. */
#include "world.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct sim_counts sim_counts;
bool sim_verbose;
uint64_t sim_digest;

static uint64_t current;

void sim_note(uint64_t what)
{
	sim_digest = (sim_digest ^ what) * UINT64_C(0x100000001b3);
	sim_digest ^= sim_digest >> 29;
}

void sim_trace(const char *format, ...)
{
	va_list arguments;

	if (!sim_verbose)
		return;
	printf("# %10lld us  ", (long long)((sim_now_ns - 1000 * MS) / US));
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

void sim_broken(const char *format, ...)
{
	va_list arguments;

	printf("seed %llu: at %lld us: ", (unsigned long long)current,
	       (long long)((sim_now_ns - 1000 * MS) / US));
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\nreplay it with: test-sim --seed %llu\n", (unsigned long long)current);
	fflush(stdout);
	_Exit(1);
}

static void run(uint64_t seed)
{
	current = seed;
	sim_digest = seed;
	sim_seed(seed);
	world_run();
	sim_note((uint64_t)sim_now_ns);
	sim_trace("seed %llu: digest %016llx", (unsigned long long)seed,
		  (unsigned long long)sim_digest);
}

static void print_counts(uint64_t seeds)
{
	printf("%llu seeds", (unsigned long long)seeds);
#define PRINT_COUNT(field, text) printf(", %llu " text, (unsigned long long)sim_counts.field);
	SIM_COUNTS(PRINT_COUNT)
#undef PRINT_COUNT
	printf(", %.0f virtual seconds\nfailed:", sim_counts.seconds);
	for (int code = 1; code < 32; code++)
		if (sim_counts.failed[code])
			printf(" %llu %s", (unsigned long long)sim_counts.failed[code],
			       kvx_error_name(-code));
	if (sim_counts.failed[0])
		printf(" %llu never opened", (unsigned long long)sim_counts.failed[0]);
	printf("\nfaults:");
#define PRINT_FAULT(name, text) \
	printf(" %llu " text ",", (unsigned long long)sim_counts.faults[name]);
	SIM_FAULTS(PRINT_FAULT)
#undef PRINT_FAULT
	printf("\n");
}

static int usage(void)
{
	fputs("usage: test-sim --seeds N [--first SEED] [--verbose]\n"
	      "       test-sim --seed SEED\n"
	      "--seeds: so many, from --first (1) on; --verbose: with their traces\n"
	      "--seed: replays one with its trace\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option names[] = {{"seeds", required_argument, NULL, 'n'},
					      {"first", required_argument, NULL, 'f'},
					      {"seed", required_argument, NULL, 's'},
					      {"verbose", no_argument, NULL, 'v'},
					      {0}};
	uint64_t first = 1, seeds = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (option) {
		case 'n':
			seeds = strtoull(optarg, NULL, 10);
			break;
		case 'f':
			first = strtoull(optarg, NULL, 10);
			break;
		case 's':
			first = strtoull(optarg, NULL, 10);
			seeds = 1;
			sim_verbose = true;
			break;
		case 'v':
			sim_verbose = true;
			break;
		default:
			return usage();
		}
	}
	if (!seeds || optind < argc)
		return usage();
	for (uint64_t seed = first; seed < first + seeds; seed++)
		run(seed);
	print_counts(seeds);
	return 0;
}
