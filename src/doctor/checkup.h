/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checks of a node, a file for each area, and what they share. One thread; nothing is kept
 * between two runs. Checks read the kernel's files below `root`, which tests point at a folder of
 * theirs; what they try, they try on this machine.
 */
#ifndef KVX_DOCTOR_CHECKUP_H
#define KVX_DOCTOR_CHECKUP_H

#include "base/options.h"

#include <kvxfer/doctor.h>

struct kvx_checkup {
	const char *root; /* before "/sys/..." and "/proc/..."; "" for this machine's */
	const struct kvx_options *options;
	const char *secret; /* or NULL */
	void (*function)(void *context, const struct kvx_finding *finding);
	void *context;
	enum kvx_severity worst;

	/* What earlier checks have found, for later ones to judge by. */
	uint32_t gpu_count;
	bool has_tried_gpus;   /* RDMA devices were given memory of GPUs */
	uint32_t device_count; /* RDMA devices that could be opened */
};

/* Tells of a finding. action: "" for KVX_SEVERITY_OK alone. */
void kvx_checkup_tell(struct kvx_checkup *checkup, enum kvx_severity severity, const char *area,
		      const char *action, const char *format, ...)
	__attribute__((format(printf, 5, 6)));

/* All checks, in order. */
void kvx_checkup_run(struct kvx_checkup *checkup);

/* ----------------------------------------------------------------- the checks, in their order */

void kvx_check_gpus(struct kvx_checkup *checkup);          /* gpu.c */
void kvx_check_rdma(struct kvx_checkup *checkup);          /* rdma.c */
void kvx_check_locked_memory(struct kvx_checkup *checkup); /* memory.c; after rdma */
void kvx_check_huge_pages(struct kvx_checkup *checkup);    /* memory.c */
void kvx_check_numa(struct kvx_checkup *checkup);          /* memory.c */
void kvx_check_peer_to_peer(struct kvx_checkup *checkup);  /* pci.c; after gpus and rdma */
void kvx_check_clock(struct kvx_checkup *checkup);         /* clock.c */
void kvx_check_io_uring(struct kvx_checkup *checkup);      /* io_uring.c */
void kvx_check_ports(struct kvx_checkup *checkup);         /* engine.c; after rdma */
void kvx_check_secret(struct kvx_checkup *checkup);        /* secret.c */

/* What the largest piece of memory that could be locked or registered means. `who`: what tried;
 * `error`: errno of the try above it, 0 if all that was tried went well. */
void kvx_check_lock_limit(struct kvx_checkup *checkup, const char *who, uint64_t largest,
			  int error);

/* gpudirect.c: tries memory of each GPU of the CUDA driver. Returns how many there are; 0: `why`
 * receives the reason. */
uint32_t kvx_check_gpu_memory(struct kvx_checkup *checkup, char *why, size_t size);

/* Is the module loaded that lets NICs register a GPU's memory by its address? */
bool kvx_checkup_has_peermem(const struct kvx_checkup *checkup);

/* Is the PCI device ("0000:19:00.0") a GPU, or another accelerator? */
bool kvx_checkup_is_gpu(const struct kvx_checkup *checkup, const char *pci);

/* -------------------------------------------------------------------------------- the kernel */

/* The bytes of a file below the root, and a zero. Returns how many; 0 if it cannot be read. */
size_t kvx_checkup_read(const struct kvx_checkup *checkup, char *bytes, size_t size,
			const char *format, ...) __attribute__((format(printf, 4, 5)));

/* As kvx_checkup_read(), the first line alone. False if there is none. */
bool kvx_checkup_line(const struct kvx_checkup *checkup, char *text, size_t size,
		      const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Does the path exist? */
bool kvx_checkup_has(const struct kvx_checkup *checkup, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Calls visit() with the name of each entry of a folder, in order; returns how many there are. */
uint32_t kvx_checkup_each(const struct kvx_checkup *checkup, const char *folder,
			  void (*visit)(void *context, const char *name), void *context);

/* Does /proc/kallsyms hold the symbol? */
bool kvx_checkup_has_symbol(const struct kvx_checkup *checkup, const char *symbol);

#endif
