/* SPDX-License-Identifier: Apache-2.0 */
/* A complete geometry in tickets and messages. docs/protocol.md describes the bytes. */
#ifndef KVX_CORE_GEOMETRY_H
#define KVX_CORE_GEOMETRY_H

#include "base/wire.h"

#include <kvxfer/kvxfer.h>

void kvx_put_geometry(struct kvx_writer *writer, const struct kvx_geometry *geometry);

/* What is no pool's geometry fails the reader. */
void kvx_get_geometry(struct kvx_reader *reader, struct kvx_geometry *geometry);

/* Blocks that so many tokens fill, the last one maybe in part. */
uint32_t kvx_geometry_blocks(const struct kvx_geometry *geometry, uint32_t tokens);

#endif
