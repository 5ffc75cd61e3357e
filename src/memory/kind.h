/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kinds of memory: one small table each, found by trying, best first. Another kind is another file
 * and a line in kind.c.
 *
 * Memory that the CPU cannot touch is a device's. Hardware that reaches it moves it by itself
 * (verbs); for all others a copier, which is a queue of copies on the device's copy engines, brings
 * it to buffers of the host and back.
 */
#ifndef KVX_MEMORY_KIND_H
#define KVX_MEMORY_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVX_COPIES_MAX 256u    /* of one call of copy() */
#define KVX_PCI_TEXT_BYTES 16u /* "0000:3b:00.0" and its end */
#define KVX_DEVICE_NONE UINT32_MAX
#define KVX_HANDLE_BYTES 64u /* of memory that another process is to open */

/* Each end is the device's memory, or memory of the host that was pinned. */
struct kvx_copy {
	char *to;
	const char *from;
	uint64_t bytes;
};

/* Each kind's own. */
struct kvx_copier;

struct kvx_memory_kind {
	const char *name;
	bool touchable; /* the CPU may read and write it; then the operations below check() are NULL
			 */

	/* Does an address belong to this kind? Any thread; never fails, whatever the driver does.
	 */
	bool (*owns)(const void *address);

	/* Is the whole range there, so that it can be registered? *device receives its number, or
	 * KVX_DEVICE_NONE. KVX_E_INVALID says what is not, KVX_E_UNSUPPORTED why such memory cannot
	 * be used. Any thread. */
	int (*check)(const void *address, size_t bytes, uint32_t *device);

	/* How many devices there are, at least one; KVX_E_UNSUPPORTED says why there is none. Not
	 * NULL for a device's kind, whether it can be had or not. Initialises the driver: a process
	 * that is forked afterwards cannot use it. Any thread; up to seconds. */
	int (*count)(uint32_t *count);

	/* The device's PCI address, and a word for what it is. Any thread. */
	int (*describe)(uint32_t device, char pci[KVX_PCI_TEXT_BYTES], char *model, size_t size);

	/* A piece of its memory, as a program would allocate it, to try things with. Any thread. */
	int (*alloc)(uint32_t device, size_t bytes, void **address);
	void (*free)(uint32_t device, void *address);

	/* A dma-buf that holds the range from *offset on; the caller closes it. KVX_E_UNSUPPORTED
	 * with the reason. Any thread. */
	int (*export_dmabuf)(const void *address, size_t bytes, int *fd, uint64_t *offset);

	/* Copies between this device and the host, and waits for it. Any thread; not the worker. */
	int (*transfer)(uint32_t device, const struct kvx_copy *copies, uint32_t count);

	/* What hardware wrote into the device's memory so far is visible to whoever reads it next.
	 * The worker; microseconds. */
	int (*flush)(uint32_t device);

	/* Does flush() do anything, because the device does not see to it by itself? Any thread. */
	int (*needs_flush)(uint32_t device, bool *needed);

	/* A queue of copies of this device. Any thread; may block. Close waits for those that are
	 * under way. */
	int (*open)(uint32_t device, struct kvx_copier **copier);
	void (*close)(struct kvx_copier *copier);

	/* Memory of the host that the copier copies from and to; page-aligned. Any thread. */
	int (*pin)(struct kvx_copier *copier, void *address, size_t bytes);
	void (*unpin)(struct kvx_copier *copier, void *address);

	/* Puts copies into the queue, at most KVX_COPIES_MAX; the array is copied. They are carried
	 * out after all that stand in the queue already. *number receives how many calls there were
	 * so far, this one included. The worker; does not wait for the device. */
	int (*copy)(struct kvx_copier *copier, const struct kvx_copy *copies, uint32_t count,
		    uint64_t *number);

	/* *number receives of how many calls all copies are done, visible to the CPU and to all
	 * work given to the device from now on. KVX_E_TRANSPORT: the device has failed, for good.
	 * The worker. */
	int (*copied)(struct kvx_copier *copier, uint64_t *number);

	/* Could this process have such memory at all? KVX_E_UNSUPPORTED with the reason.
	 * Initialises no driver. Any thread. */
	int (*available)(void);

	/* A handle by which other processes of this host open the allocation that holds the range,
	 * from *offset on. KVX_E_UNSUPPORTED with the reason. Any thread. */
	int (*share)(const void *address, size_t bytes, uint8_t handle[KVX_HANDLE_BYTES],
		     uint64_t *offset);

	/* Opens another process's allocation, of at least that many bytes, for the device's copier,
	 * until as many calls of leave() as of reach(). The handle may be anything. KVX_E_TRANSPORT
	 * with the reason. Any thread; may take milliseconds. */
	int (*reach)(uint32_t device, const uint8_t handle[KVX_HANDLE_BYTES], uint64_t bytes,
		     char **base);
	void (*leave)(uint32_t device, char *base);
};

extern const struct kvx_memory_kind kvx_memory_host;
extern const struct kvx_memory_kind kvx_memory_cuda;

/* The kind of an address; host owns whatever no other kind does. */
const struct kvx_memory_kind *kvx_memory_kind_of(const void *address);

#endif
