/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs Criterion's tests under the thread sanitizer. Criterion's own runner maps an arena at
 * addresses that the sanitizer keeps for itself and does not start (Snaipe/Criterion#274), so this
 * one takes its place in that build: it walks the tests that the macros have registered, runs each
 * in a child, and writes the same TAP. The functions that assertions call are answered here.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <criterion/parameterized.h>
#include <fnmatch.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_S 120.0
#define STATUS_FAILED 1
#define STATUS_SKIPPED 77

/* Where the linker has put the macros' registrations. Suites may be absent. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

/* Of the child: the test it runs, and how it went. */
static struct criterion_test *running;
static void *parameter;
static atomic_bool failed;
static jmp_buf end_of_test;

void criterion_send_assert(struct criterion_assert_stats *stats)
{
	if (stats->passed)
		return;
	failed = true;
	fprintf(stderr, "%s:%u: %s\n", stats->file, stats->line,
		stats->message ? stats->message : "assertion failed");
}

void cri_assert_node_send(const char *file, size_t line, struct cri_assert_node *tree)
{
	if (tree->pass)
		return;
	failed = true;
	fprintf(stderr, "%s:%zu: %s\n", file, line,
		tree->message ? tree->message : "assertion failed");
}

void cri_asserts_passed_incr(void)
{
}

void criterion_abort_test(void)
{
	longjmp(end_of_test, 1);
}

void criterion_continue_test(void)
{
}

void criterion_skip_test(const char *format, ...)
{
	va_list arguments;

	printf("ok - %s::%s # SKIP ", running->category, running->name);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	_exit(STATUS_SKIPPED);
}

static const struct criterion_test_extra_data *suite_data(const char *name)
{
	static const struct criterion_test_extra_data none;

	for (struct criterion_suite **suite = __start_cr_sts; suite < __stop_cr_sts; suite++)
		if (strcmp((*suite)->name, name) == 0 && (*suite)->data)
			return (*suite)->data;
	return &none;
}

void criterion_internal_test_setup(void)
{
	const struct criterion_test_extra_data *suite = suite_data(running->category);

	if (suite->init)
		suite->init();
	if (running->data->init)
		running->data->init();
}

void criterion_internal_test_main(void (*function)(void))
{
	if (setjmp(end_of_test))
		return;
	if (running->data->kind_ == CR_TEST_PARAMETERIZED)
		((void (*)(void *))function)(parameter);
	else
		function();
}

void criterion_internal_test_teardown(void)
{
	const struct criterion_test_extra_data *suite = suite_data(running->category);

	if (running->data->fini)
		running->data->fini();
	if (suite->fini)
		suite->fini();
}

static unsigned timeout_s(const struct criterion_test *test)
{
	double own = test->data->timeout, suite = suite_data(test->category)->timeout;

	return (unsigned)(own > 0 ? own : suite > 0 ? suite : TIMEOUT_S) + 1;
}

/* The child ends as a program does, so that the sanitizer gives its verdict as exit status. */
static int run_in_child(struct criterion_test *test, void *value)
{
	int status = 0;
	pid_t child = fork();

	if (child == 0) {
		running = test;
		parameter = value;
		alarm(timeout_s(test));
		test->test();
		exit(failed ? STATUS_FAILED : 0);
	}
	return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

static bool is_expected(const struct criterion_test *test, int status)
{
	int signal = test->data->signal ? test->data->signal : suite_data(test->category)->signal;

	if (WIFSIGNALED(status))
		return WTERMSIG(status) == signal;
	return WIFEXITED(status) && signal == 0 && WEXITSTATUS(status) == test->data->exit_code;
}

/* Returns whether it counts as a success. */
static bool report(const struct criterion_test *test, int status)
{
	const char *name = test->name, *suite = test->category;

	if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIPPED)
		return true; /* The child has told why. */
	if (is_expected(test, status)) {
		printf("ok - %s::%s\n", suite, name);
	} else {
		printf("not ok - %s::%s\n# ended with %s %d\n", suite, name,
		       WIFSIGNALED(status) ? "signal" : "status",
		       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		return false;
	}
	return true;
}

static bool run_each_parameter(struct criterion_test *test, int *count)
{
	struct criterion_test_params parameters = test->data->param_();
	bool good = true;

	for (size_t i = 0; i < parameters.length; i++, (*count)++)
		good &= report(test,
			       run_in_child(test, (char *)parameters.params + i * parameters.size));
	if (parameters.cleanup)
		parameters.cleanup(&parameters);
	return good;
}

static bool run(struct criterion_test *test, int *count)
{
	if (test->data->disabled || suite_data(test->category)->disabled) {
		printf("ok - %s::%s # SKIP disabled\n", test->category, test->name);
		(*count)++;
		return true;
	}
	if (test->data->kind_ == CR_TEST_PARAMETERIZED)
		return run_each_parameter(test, count);
	(*count)++;
	return report(test, run_in_child(test, NULL));
}

/* --filter=PATTERN over SUITE/TEST, as Criterion has it. */
static bool is_wanted(const struct criterion_test *test, const char *pattern)
{
	char name[256];

	snprintf(name, sizeof(name), "%s/%s", test->category, test->name);
	return !pattern || fnmatch(pattern, name, 0) == 0;
}

int main(int argc, char **argv)
{
	const char *pattern = NULL;
	bool good = true;
	int count = 0;

	for (int i = 1; i < argc; i++)
		if (strncmp(argv[i], "--filter=", 9) == 0)
			pattern = argv[i] + 9;

	/* A line at a time, so that a child inherits nothing unwritten. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (struct criterion_test **test = __start_cr_tst; test < __stop_cr_tst; test++)
		if (*test && is_wanted(*test, pattern))
			good &= run(*test, &count);
	printf("1..%d\n", count);
	return !good;
}
