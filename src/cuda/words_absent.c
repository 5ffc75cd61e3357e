/* SPDX-License-Identifier: Apache-2.0 */
/* In place of words.c, in a build without CUDA. */
#include "base/error.h"

#include <kvxfer/cuda.h>

static int fail_absent(const char *what)
{
	return kvx_fail(KVX_E_UNSUPPORTED,
			"%s: this build of kvxfer has no CUDA; build it with -Dcuda=enabled", what);
}

int kvx_cuda_words_alloc(uint32_t count, uint32_t **words)
{
	(void)count;
	(void)words;
	return fail_absent("words");
}

/* The header says what it takes. */
/* NOLINTNEXTLINE(readability-non-const-parameter) */
int kvx_cuda_words_free(uint32_t *words)
{
	return words ? fail_absent("words") : 0;
}

/* NOLINTNEXTLINE(readability-non-const-parameter) */
int kvx_cuda_signal_ready(void *stream, uint32_t *word)
{
	(void)stream;
	(void)word;
	return fail_absent("signal");
}

int kvx_cuda_wait_layer(void *stream, const uint32_t *words, uint32_t layer)
{
	(void)stream;
	(void)words;
	(void)layer;
	return fail_absent("wait");
}
