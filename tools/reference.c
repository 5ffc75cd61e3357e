/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the reference pages that come from tables of the library: docs/options.md and
 * docs/errors.md. A test compares them with this program's output. */
#include <kvxfer/kvxfer.h>

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static void print_origin(const char *page)
{
	printf("Written by `kvxfer-reference %s > docs/%s.md`, which the build makes in\n"
	       "`build/tools/`; change the table in the source, not this page.\n\n",
	       page, page);
}

/* The help of an option may hold the mark that ends a column. */
static void print_cell(const char *text)
{
	for (; *text; text++)
		printf(*text == '|' ? "\\|" : "%c", *text);
}

static void print_variable(const char *option)
{
	printf("`KVX_");
	for (; *option; option++)
		putchar(toupper((unsigned char)*option));
	printf("`");
}

static void print_option(const struct kvx_option_info *option)
{
	printf("| `%s` | ", option->name);
	print_variable(option->name);
	printf(" | %s | %s | ", option->kind, *option->initial ? option->initial : "empty");
	print_cell(*option->range ? option->range : "any");
	printf(" | ");
	print_cell(option->help);
	printf(" |\n");
}

static void print_options(void)
{
	struct kvx_option_info option;

	printf("# Options of an engine\n\n");
	print_origin("options");
	printf("Set them by `kvx_options_set()`, or in the environment before the engine opens.\n"
	       "Bytes take a suffix K, M or G (1024), flags are `on` or `off`.\n\n"
	       "| option | environment | kind | default | range | what it does |\n"
	       "|---|---|---|---|---|---|\n");
	for (uint32_t i = 0; kvx_option_describe(i, &option) == 0; i++)
		print_option(&option);
}

static void print_errors(void)
{
	printf("# Errors\n\n");
	print_origin("errors");
	printf("What is broken says what to do: *call*: fix the arguments; *transfer*: this grant\n"
	       "or stream has ended, open another; *peer*: the other engine is gone or refuses;\n"
	       "*engine*: this process lacks something. `kvx_error_text()` holds the explanation\n"
	       "of each failure.\n\n"
	       "| error | value | broken | meaning |\n"
	       "|---|---|---|---|\n");
#define PRINT_ERROR(name, value, broken, text) \
	printf("| `%s` | %d | %s | %s |\n", #name, value, broken, text);
	KVX_ERROR_TABLE(PRINT_ERROR)
#undef PRINT_ERROR
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "options") == 0) {
		print_options();
	} else if (argc == 2 && strcmp(argv[1], "errors") == 0) {
		print_errors();
	} else {
		fprintf(stderr, "usage: kvxfer-reference options|errors\n");
		return 2;
	}
	return ferror(stdout) != 0;
}
