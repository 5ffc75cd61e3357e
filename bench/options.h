/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: one table of options, which also makes --help. */
#ifndef KVX_BENCH_OPTIONS_H
#define KVX_BENCH_OPTIONS_H

#include "settings.h"

/* Parses and resolves. Ends the process with status 2 if something is not valid, and with 0 after
 * --help, --version and --model list. */
void kvx_options_parse_arguments(int argc, char **argv, struct kvx_settings *settings);

#endif
