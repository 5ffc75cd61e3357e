/* SPDX-License-Identifier: Apache-2.0 */
#include "base/submission.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdint.h>

#define OBJECTS 8
#define THREADS 4
#define SUBMITS 40000

struct object {
	struct kvx_submission submission; /* first */
	_Atomic uint32_t published;       /* by submitters, before they submit */
	uint32_t seen;                    /* of it, by the taker */
	uint32_t taken, bits;
};

static struct kvx_submissions submissions;
static struct object objects[OBJECTS];
static int order[OBJECTS], taken_count;

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct object *object = (struct object *)submission;

	cr_assert(wanted, "taken without being wanted");
	if (taken_count < OBJECTS)
		order[taken_count] = (int)(object - objects);
	taken_count++;
	object->taken++;
	object->bits |= wanted;
	object->seen = atomic_load_explicit(&object->published, memory_order_relaxed);
}

static void init(void)
{
	for (int i = 0; i < OBJECTS; i++)
		objects[i].submission.take = take;
}

TestSuite(submission, .init = init, .timeout = 60);

Test(submission, nothing_waits_at_first)
{
	cr_assert_not(kvx_submissions_waiting(&submissions));
	cr_assert_eq(kvx_submissions_take(&submissions), 0);
}

Test(submission, the_oldest_is_taken_first)
{
	for (int i = 0; i < OBJECTS; i++)
		kvx_submit(&submissions, &objects[i].submission, 1);
	cr_assert(kvx_submissions_waiting(&submissions));
	cr_assert_eq(kvx_submissions_take(&submissions), OBJECTS);
	for (int i = 0; i < OBJECTS; i++)
		cr_assert_eq(order[i], i);
	cr_assert_not(kvx_submissions_waiting(&submissions));
}

Test(submission, what_is_submitted_twice_is_taken_once_with_all_its_bits)
{
	kvx_submit(&submissions, &objects[0].submission, 1);
	kvx_submit(&submissions, &objects[0].submission, 4);
	kvx_submit(&submissions, &objects[0].submission, 1);
	cr_assert_eq(kvx_submissions_take(&submissions), 1);
	cr_assert_eq(objects[0].bits, 5);
	kvx_submit(&submissions, &objects[0].submission, 2);
	cr_assert_eq(kvx_submissions_take(&submissions), 1);
	cr_assert_eq(objects[0].bits, 7);
}

static void take_and_submit(struct kvx_submission *submission, uint32_t wanted)
{
	(void)submission;
	(void)wanted;
	kvx_submit(&submissions, &objects[1].submission, 8);
}

Test(submission, taking_may_submit)
{
	objects[0].submission.take = take_and_submit;
	kvx_submit(&submissions, &objects[0].submission, 1);
	cr_assert_eq(kvx_submissions_take(&submissions), 1);
	cr_assert_eq(kvx_submissions_take(&submissions), 1);
	cr_assert_eq(objects[1].bits, 8);
}

static atomic_int running;

static void *submit_many(void *argument)
{
	for (int i = 0; i < SUBMITS; i++) {
		struct object *object = &objects[i % OBJECTS];
		atomic_fetch_add_explicit(&object->published, 1, memory_order_relaxed);
		kvx_submit(&submissions, &object->submission, 1u << (i % 32));
	}
	atomic_fetch_sub(&running, 1);
	return argument;
}

/* Whatever was published before a submission is seen when it is taken. */
Test(submission, nothing_is_lost_between_threads)
{
	pthread_t threads[THREADS];

	running = THREADS;
	for (int i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, submit_many, NULL), 0);
	while (atomic_load(&running))
		kvx_submissions_take(&submissions);
	kvx_submissions_take(&submissions);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < OBJECTS; i++) {
		cr_assert_eq(objects[i].seen, THREADS * SUBMITS / OBJECTS);
		cr_assert(objects[i].taken > 0 && objects[i].bits);
	}
	cr_assert_eq(kvx_submissions_take(&submissions), 0);
}
