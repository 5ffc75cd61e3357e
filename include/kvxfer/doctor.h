/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a node: checks that try what an engine will do, and say what to change.
 *
 *   kvx_doctor_run(options, NULL, print_finding, NULL);
 *
 * docs/doctor.md lists the checks. Errors as in kvxfer.h.
 */
#ifndef KVXFER_DOCTOR_H
#define KVXFER_DOCTOR_H

#include <kvxfer/kvxfer.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define KVX_FINDING_TEXT_MAX 511u /* characters of each text of a finding */

enum kvx_severity {
	KVX_SEVERITY_OK,
	KVX_SEVERITY_NOTE,    /* good to know; nothing is wrong */
	KVX_SEVERITY_WARNING, /* it works, but slower, or with less than the node has */
	KVX_SEVERITY_ERROR,   /* it will not work */
};

/* "ok", "note", "warning", "error". Static. */
const char *kvx_severity_name(enum kvx_severity severity);

/* The texts are valid during the call that tells of it. */
struct kvx_finding {
	enum kvx_severity severity;
	const char *area;   /* "locked memory", "rdma", "gid", ... */
	const char *found;  /* object first: "mlx5_0 port 1: down: no cable" */
	const char *action; /* what to do; empty only for KVX_SEVERITY_OK */
};

/*
 * Runs all checks of this node and tells of each finding: function(context, finding), from the
 * calling thread. It registers, locks and binds what an engine would, and gives it back before it
 * returns; run it while no engine uses the same port. Where there is a CUDA driver it is
 * initialised and stays so: processes forked afterwards cannot use it. options: as of the engine;
 * NULL for kvx_options_new()'s. secret: path of a file that must be its owner's alone, or NULL.
 * Returns the worst severity (enum kvx_severity). KVX_E_INVALID (no function, or an option in the
 * environment that is not valid), KVX_E_MEMORY.
 */
int kvx_doctor_run(const struct kvx_options *options, const char *secret,
		   void (*function)(void *context, const struct kvx_finding *finding),
		   void *context);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
