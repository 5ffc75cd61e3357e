/* SPDX-License-Identifier: Apache-2.0 */
/* Copies from a device to a device as a program makes them without kvxfer: what its transfers are
 * compared with. */
#ifndef GPU_COPIES_CUH
#define GPU_COPIES_CUH

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

struct copies {
	char *from, *to, *pinned[2]; /* buffers of one piece */
	size_t bytes, piece;
	cudaStream_t out, in;
	cudaEvent_t filled[2], emptied[2];
};

/* Leaves the receiver's device as the current one. */
void copies_open(struct copies *copies, int sender_device, int receiver_device, size_t bytes,
		 uint32_t pieces);

/* Each returns how many ns it took: one copy, without the host; through pinned memory, a piece out,
 * then in, then the next one; and both directions at once, which is as fast as this way can be. */
int64_t copied_directly(const struct copies *copies);
int64_t copied_in_turn(const struct copies *copies);
int64_t copied_overlapped(const struct copies *copies);

#endif
