/* SPDX-License-Identifier: Apache-2.0 */
/* SANITIZED: built with a sanitizer that has an allocator and shadow memory of its own.
 * THREAD_SANITIZED: with that for threads. */
#ifndef KVX_TESTS_SANITIZED_H
#define KVX_TESTS_SANITIZED_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#endif
#ifdef __SANITIZE_THREAD__
#define THREAD_SANITIZED
#endif

/* How often something is repeated: each time takes a sanitizer several times as long. */
#ifdef SANITIZED
#define REPEATED(count) ((count) / 3)
#else
#define REPEATED(count) (count)
#endif

/* In a test that forks, while it has threads. */
#ifdef THREAD_SANITIZED
#define SKIP_FORKS() \
	cr_skip_test("the thread sanitizer may hang in what a process with threads forks")
#else
#define SKIP_FORKS() ((void)0)
#endif

#endif
