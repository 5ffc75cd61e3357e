/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums of blocks. Reading gigabytes takes its time, so each is computed on a thread of its own
 * while the request is held. */
#ifndef KVX_CONTROL_CHECKSUM_H
#define KVX_CONTROL_CHECKSUM_H

struct kvx_sums;

/* NULL: no memory. */
struct kvx_sums *kvx_sums_open(void);

/* Waits for those that are being computed. */
void kvx_sums_close(struct kvx_sums *sums);

/* At least once a second: frees those that no client asks for any more. */
void kvx_sums_tick(struct kvx_sums *sums);

#endif
