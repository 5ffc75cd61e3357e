/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GPU's side of ready words and of waits, for streams and graphs of CUDA: a GPU tells the
 * engine that a layer is computed, and waits for layers that arrive, with no CPU in between.
 *
 *   prefill                                       decode
 *   kvx_cuda_words_alloc(1, &word);               kvx_cuda_words_alloc(layers + 1, &words);
 *   kvx_stream_watch(stream, word);               kvx_grant_mirror(grant, words, layers + 1);
 *   for each layer:                               for each layer:
 *           kernels of the layer                          kvx_cuda_wait_layer(cuda, words, layer);
 *           kvx_cuda_signal_ready(cuda, word);            kernels that read the layer
 *   kvx_stream_close(stream);                     kvx_grant_close(grant);
 *   kvx_cuda_words_free(word);                    kvx_cuda_words_free(words);
 *
 * No header of CUDA is needed here. A stream of CUDA is a `void *`: a cudaStream_t of the runtime
 * and a CUstream of the driver are the same pointer and convert to it by themselves. NULL is the
 * default stream (the legacy one) of the device that is current in the calling thread; the values
 * 1 and 2, which CUDA has for its legacy and per-thread default streams, mean the same here.
 *
 * kvxfer/device.cuh has both for use inside one's own kernels. docs/gpu.md tells more.
 *
 * Every function fails with KVX_E_UNSUPPORTED, and the reason, in a build without CUDA and on a
 * machine without its driver or without a device. None changes the context that is current in the
 * calling thread. Any thread may call any function; what one thread puts
 * into a stream keeps its order there. Errors as in kvxfer.h.
 */
#ifndef KVXFER_CUDA_H
#define KVXFER_CUDA_H

#include <kvxfer/kvxfer.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define KVX_CUDA_WORDS_MAX (1u << 20) /* words of one allocation */

/*
 * Allocates 32-bit words that the engine and all devices of this process read and write at the same
 * address: pinned memory of the host. They are 0. They live in the primary context of the device
 * that is current in the calling thread, or of device 0 where none is.
 *
 * count: how many, 1 to KVX_CUDA_WORDS_MAX. Each stream that is watched takes one, each grant that
 * is mirrored one more than its pool has layers, for the tail; any of them may be given to each.
 * words: receives the first one's address; naturally aligned. They are the caller's until
 * kvx_cuda_words_free().
 *
 * May wait for devices and takes up to milliseconds: allocate once for many streams and grants.
 * Errors: KVX_E_INVALID (words is NULL, count out of range), KVX_E_MEMORY (memory cannot be
 * pinned), KVX_E_UNSUPPORTED (also a device without unified addressing), KVX_E_TRANSPORT (a device
 * has failed).
 */
int kvx_cuda_words_alloc(uint32_t count, uint32_t **words);

/*
 * Frees what kvx_cuda_words_alloc() gave. NULL does nothing.
 *
 * words: as it was given. Streams that watch one of the words, and grants that are mirrored into
 * them, must be closed; all work and every graph that signals or waits on them must have ended or
 * never run again.
 *
 * May wait for devices. Errors: KVX_E_INVALID (not such words, or freed already), KVX_E_TRANSPORT
 * (a device has failed; they are gone all the same).
 */
int kvx_cuda_words_free(uint32_t *words);

/*
 * Puts an increment by one of a word into a stream of CUDA, after all work that is in the stream so
 * far. When the engine, which kvx_stream_watch() had watch that word, sees it, everything that
 * this work wrote is visible to whoever reads it then: CPU, copy engines, NIC.
 *
 * It is done by a kernel of one thread that increments: a graph that captured it is right at every
 * replay, where writing a constant would tell the layers of the first one again.
 *
 * stream: a stream of CUDA, capturing or not; the caller's.
 * word: one that kvx_cuda_words_alloc() gave. All increments of one word must come from one device:
 * on most machines those of several devices do not add up.
 *
 * Returns at once; does not wait for the device, except at the first call for each device, which
 * loads the kernel. Errors: KVX_E_INVALID (not such a word, a stream that is none or whose capture
 * was broken), KVX_E_UNSUPPORTED (this device or driver cannot load the kernel; use
 * kvx_stream_layers_ready() after an event then), KVX_E_TRANSPORT (the device has failed).
 */
int kvx_cuda_signal_ready(void *stream, uint32_t *word);

/*
 * Puts a wait for a layer into a stream of CUDA: what is put there afterwards begins when
 * words[layer] is not KVX_WORD_PENDING, which is when the engine, by kvx_grant_mirror(), has stored
 * KVX_WORD_WHOLE or KVX_WORD_FAILED there. It ends on both, since a stream of CUDA cannot fail by
 * itself: where a grant may fail, let the first kernel behind it look at the word with
 * kvx_layer_state() of kvxfer/device.cuh, or the CPU at kvx_grant_poll() before it uses what was
 * computed. If it is KVX_WORD_WHOLE all bytes of the layer are visible to the work behind the wait.
 *
 * The grant's lease bounds the wait, but only words that are mirrored ever change: mirror the grant
 * before work is put behind a wait for it. A graph captures the wait and waits for the same word at
 * every replay.
 *
 * stream: a stream of CUDA, capturing or not; the caller's.
 * words: as given to kvx_grant_mirror(), of kvx_cuda_words_alloc().
 * layer: index of a word, below the count of words: a layer of the grant's pool, or the number of
 * its layers for the tail.
 *
 * Returns at once. Where the driver has memory operations of streams (CUDA 11.7 and later) nothing
 * of the device is taken meanwhile; elsewhere a kernel of one thread looks at the word. Errors:
 * KVX_E_INVALID (not such words, layer out of range, a stream that is none or whose capture was
 * broken), KVX_E_UNSUPPORTED (neither is to be had), KVX_E_TRANSPORT (the device has failed).
 */
int kvx_cuda_wait_layer(void *stream, const uint32_t *words, uint32_t layer);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
