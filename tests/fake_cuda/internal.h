/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lock guards all state below that no comment takes from it. Functions whose comment does not
 * say otherwise are called with it.
 */
#ifndef FAKE_CUDA_INTERNAL_H
#define FAKE_CUDA_INTERNAL_H

#include "fake_cuda.h"

#include "base/list.h"
#include "cuda/abi.h"

#include <pthread.h>
#include <stdatomic.h>

#define EXPORT __attribute__((visibility("default")))
#define DEVICES_MAX 8u
#define PAGE_BYTES 4096u

/* What the program sees of this library beside fake_cuda.h. */
#define X(member, symbol, arguments) EXPORT enum kvx_cu_result symbol arguments;
KVX_CU_FUNCTIONS(X)
KVX_CU_OPTIONAL_FUNCTIONS(X)
KVX_CU_TEST_FUNCTIONS(X)
#undef X

/* And what the library's own table has besides. */
EXPORT enum kvx_cu_result cuMemGetAccess(unsigned long long *flags,
					 const struct kvx_cu_location *location,
					 kvx_cu_ptr address);

struct fake_capture;
struct fake_operation;

/* --- options.c; no lock --- */

enum fake_option {
#define X(name, value) FAKE_##name,
	FAKE_CUDA_OPTIONS(X)
#undef X
		FAKE_OPTIONS
};

uint64_t fake_option(enum fake_option option);
void fake_option_store(enum fake_option option, uint64_t value);
/* Ends the program: a test asked for what cannot be. */
__attribute__((noreturn, format(printf, 1, 2))) void fake_die(const char *format, ...);

/* --- lock.c --- */

struct fake_counters {
	uint64_t copies, launches, flushes, live, leaked;
};

extern struct fake_counters fake_counters;

void fake_lock(void);
void fake_unlock(void);
/* Waits for fake_changed(); releases the lock meanwhile. */
void fake_wait(void);
void fake_changed(void);
int64_t fake_now_ns(void); /* no lock */

/* --- context.c --- */

/* One of each device. */
struct kvx_cu_context {
	unsigned device, retained;
	/* Written with the lock. Threads that wait for a word look at them without. */
	atomic_int error; /* kvx_cu_result; stays until the context is gone */
	atomic_bool ending;
	struct kvx_cu_stream *standard; /* NULL until it is needed */
	struct kvx_list streams, events, modules;
};

extern struct kvx_cu_context fake_contexts[DEVICES_MAX];

/* Takes the lock, unless what it returns is an error: may the calling thread go on, with a context?
 */
enum kvx_cu_result fake_enter(struct kvx_cu_context **context);
/* As above, of a call that might disturb a capture. */
enum kvx_cu_result fake_enter_unsafe(struct kvx_cu_context **context);
/* Releases it and returns the result. */
enum kvx_cu_result fake_leave(enum kvx_cu_result result);
/* The calling thread's current context, or NULL. No lock. */
struct kvx_cu_context *fake_current(void);
bool fake_initialized(void);     /* no lock */
extern _Atomic int fake_process; /* that initialised the fake */
/* The process ends, with contexts or without: nothing works any more. No lock. */
void fake_contexts_leave(void);
unsigned fake_device_count(void);      /* no lock */
bool fake_is_device(kvx_cu_device id); /* no lock */

/* --- range.c --- */

enum fake_range_kind {
	FAKE_ALLOCATED,
	FAKE_POOLED,
	FAKE_IMPORTED, /* of another process */
	FAKE_RESERVED, /* physical memory is mapped into it */
	FAKE_PINNED,   /* host memory of the program */
	FAKE_HOST,     /* host memory of the fake */
};

struct fake_file {
	uint64_t device, inode;
};

struct fake_range {
	struct kvx_list entry;
	enum fake_range_kind kind;
	struct kvx_cu_context *context;
	uint64_t base, bytes, id;
	char *view; /* of base */
	/* All that was mapped; of the device's memory twice. */
	char *map, *view_map;
	uint64_t map_bytes;
	int fd;          /* -1: none */
	unsigned users;  /* streams that are at work there */
	unsigned opened; /* of imported memory */
	struct fake_file file;
	struct kvx_list segments; /* of reserved space: virtual.c */
};

struct fake_range *fake_range_find(uint64_t address);
struct fake_range *fake_range_at(uint64_t base, enum fake_range_kind kind);
/* That was opened from this file. */
struct fake_range *fake_range_imported(struct kvx_cu_context *context,
				       const struct fake_file *file);
/* Does another range have a byte of it? */
bool fake_range_touches(uint64_t base, uint64_t bytes);
struct fake_range *fake_range_add(struct kvx_cu_context *context, enum fake_range_kind kind);
/* Waits for its users, and gives everything back. */
void fake_range_remove(struct fake_range *range);
/* Address space for both mappings; view_map is of the file, where there is one. */
enum kvx_cu_result fake_range_map(struct fake_range *range, uint64_t bytes, uint64_t alignment);
bool fake_range_is_host(const struct fake_range *range);

/* Where these bytes are, for a thread that is at work until it releases the range; NULL: nowhere.
 */
char *fake_resolve(uint64_t address, uint64_t bytes, struct fake_range **range);
void fake_release(struct fake_range *range);
/* A new file in memory; -1 if there can be none. No lock. */
int fake_file_new(const char *name, uint64_t bytes);
void fake_ranges_end(struct kvx_cu_context *context);

/* --- virtual.c --- */

struct fake_segment {
	struct kvx_list entry;
	uint64_t offset, bytes; /* in its range */
	uint64_t memory_offset;
	struct fake_memory *memory;
	bool accessible;
};

struct fake_memory {
	struct kvx_list entry;
	struct kvx_cu_context *context;
	uint64_t bytes;
	int fd;
	unsigned users; /* the handle and all that is mapped */
	bool released, gpu_direct;
};

/* That has the address; NULL if none. */
struct fake_segment *fake_segment_find(struct fake_range *range, uint64_t address);
bool fake_segments_accessible(struct fake_range *range, uint64_t address, uint64_t bytes);
void fake_segments_end(struct fake_range *range);
void fake_memories_end(struct kvx_cu_context *context);

/* --- stream.c --- */

struct kvx_cu_stream {
	struct kvx_list entry, operations;
	struct kvx_cu_context *context;
	pthread_t thread;
	bool busy, closing;
	struct fake_capture *capture;
};

struct kvx_cu_stream *fake_stream_find(struct kvx_cu_context *current, struct kvx_cu_stream *stream,
				       enum kvx_cu_result *result);
/* Puts it into the stream, or into the graph that is captured, and takes it over in any case. */
enum kvx_cu_result fake_stream_put(struct kvx_cu_stream *stream, struct fake_operation *operation);
/* Until the stream has nothing to do. */
enum kvx_cu_result fake_stream_wait(struct kvx_cu_stream *stream);
void fake_streams_end(struct kvx_cu_context *context);

/* --- operation.c --- */

enum fake_operation_kind {
	FAKE_COPY,
	FAKE_SET,
	FAKE_WRITE,
	FAKE_AWAIT_WORD,
	FAKE_RECORD,
	FAKE_AWAIT_MARK,
	FAKE_LAUNCH,
	FAKE_GRAPH,
	FAKE_FREE,
};

/* One record of an event. */
struct fake_mark {
	unsigned users;
	bool done;
	int64_t time_ns;
};

struct fake_copy {
	uint64_t to, from, bytes;
};

enum fake_kernel { FAKE_SIGNAL, FAKE_WAIT, FAKE_GATHER, FAKE_FILL, FAKE_KERNELS };

#define FAKE_PARAMETERS_MAX 3u

struct fake_operation {
	struct kvx_list entry;
	enum fake_operation_kind kind;
	enum fake_kernel kernel;
	uint64_t parameters[FAKE_PARAMETERS_MAX];
	uint64_t address, bytes; /* of a set, a word, what is freed */
	uint32_t value, flags;
	bool pageable; /* a copy's ends may be host memory that is not known */
	struct fake_mark *mark;
	struct kvx_cu_graph_exec *exec;
	uint32_t count;
	struct fake_copy copies[];
};

/* NULL: no memory. No lock. */
struct fake_operation *fake_operation_new(enum fake_operation_kind kind, uint32_t copies);
struct fake_operation *fake_operation_clone(const struct fake_operation *operation);
void fake_operation_free(struct fake_operation *operation);
/* By the stream's thread, without lock. */
void fake_operation_do(struct kvx_cu_stream *stream, struct fake_operation *operation);
void fake_context_fail(struct kvx_cu_context *context, enum kvx_cu_result error);
/* Has something come up that ends all work? No lock. */
bool fake_context_over(struct kvx_cu_context *context);
/* Does the copy; false: it has no such address. No lock. */
bool fake_copy_do(struct kvx_cu_stream *stream, const struct fake_copy *copy, bool pageable);
bool fake_await_word(struct kvx_cu_stream *stream, uint64_t address, uint32_t value,
		     uint32_t flags);

/* --- kernel.c --- */

/* False: an illegal address. By the stream's thread, without lock. */
bool fake_kernel_do(struct kvx_cu_stream *stream, enum fake_kernel kernel,
		    const uint64_t *parameters);
void fake_modules_end(struct kvx_cu_context *context);

/* --- event.c --- */

void fake_mark_release(struct fake_mark *mark);
void fake_events_end(struct kvx_cu_context *context);

/* --- capture.c --- */

struct fake_capture {
	struct kvx_list entry, operations;
	uint64_t id;
	struct kvx_cu_stream *origin;
	enum kvx_cu_capture_mode mode;
	pthread_t thread;
	bool broken;
};

struct kvx_cu_graph_exec {
	struct kvx_list operations;
	unsigned users; /* the program's, and launches on their way */
};

/* Is the call allowed? If not, what it would have disturbed is broken. */
enum kvx_cu_result fake_capture_guard(void);
struct fake_capture *fake_capture_find(uint64_t id);
void fake_exec_release(struct kvx_cu_graph_exec *exec);

#endif
