/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine knows of its control socket: that there may be one. src/control makes it, from
 * the public API alone; absent.c stands in for it in a build without one.
 */
#ifndef KVX_CORE_CONTROL_H
#define KVX_CORE_CONTROL_H

struct kvx_engine;
struct kvx_control;

/* The last step of opening an engine: listens where options control and control_listen say.
 * *control is NULL if they are empty. Fails with kvx_fail(). */
int kvx_control_open(struct kvx_engine *engine, struct kvx_control **control);

/* The first step of closing it: clients are cut off, and what they opened is closed. NULL does
 * nothing. */
void kvx_control_close(struct kvx_control *control);

/* As kvx_engine_control(). */
const char *kvx_control_address(const struct kvx_control *control);

#endif
