/* SPDX-License-Identifier: Apache-2.0 */
#include "copies.cuh"
#include "support.cuh"

void copies_open(struct copies *copies, int sender_device, int receiver_device, size_t bytes,
		 uint32_t pieces)
{
	copies->bytes = bytes;
	copies->piece = bytes / pieces;
	check_cuda(cudaSetDevice(sender_device));
	check_cuda(cudaMalloc(&copies->from, bytes));
	check_cuda(cudaStreamCreateWithFlags(&copies->out, cudaStreamNonBlocking));
	check_cuda(cudaMemsetAsync(copies->from, 1, bytes, copies->out));
	check_cuda(cudaStreamSynchronize(copies->out));
	for (cudaEvent_t &event : copies->filled)
		check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
	check_cuda(cudaSetDevice(receiver_device));
	check_cuda(cudaMalloc(&copies->to, bytes));
	check_cuda(cudaStreamCreateWithFlags(&copies->in, cudaStreamNonBlocking));
	for (cudaEvent_t &event : copies->emptied)
		check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
	for (char *&buffer : copies->pinned)
		check_cuda(cudaHostAlloc(&buffer, copies->piece, cudaHostAllocPortable));
}

int64_t copied_directly(const struct copies *copies)
{
	int64_t begin_ns = clock_ns();

	check_cuda(cudaMemcpyAsync(copies->to, copies->from, copies->bytes, cudaMemcpyDefault,
				   copies->in));
	check_cuda(cudaStreamSynchronize(copies->in));
	return clock_ns() - begin_ns;
}

int64_t copied_in_turn(const struct copies *copies)
{
	int64_t begin_ns = clock_ns();

	for (size_t at = 0; at < copies->bytes; at += copies->piece) {
		check_cuda(cudaMemcpyAsync(copies->pinned[0], copies->from + at, copies->piece,
					   cudaMemcpyDeviceToHost, copies->out));
		check_cuda(cudaStreamSynchronize(copies->out));
		check_cuda(cudaMemcpyAsync(copies->to + at, copies->pinned[0], copies->piece,
					   cudaMemcpyHostToDevice, copies->in));
		check_cuda(cudaStreamSynchronize(copies->in));
	}
	return clock_ns() - begin_ns;
}

int64_t copied_overlapped(const struct copies *copies)
{
	int64_t begin_ns = clock_ns();
	uint32_t which = 0;

	for (size_t at = 0; at < copies->bytes; at += copies->piece, which ^= 1) {
		check_cuda(cudaStreamWaitEvent(copies->out, copies->emptied[which], 0));
		check_cuda(cudaMemcpyAsync(copies->pinned[which], copies->from + at, copies->piece,
					   cudaMemcpyDeviceToHost, copies->out));
		check_cuda(cudaEventRecord(copies->filled[which], copies->out));
		check_cuda(cudaStreamWaitEvent(copies->in, copies->filled[which], 0));
		check_cuda(cudaMemcpyAsync(copies->to + at, copies->pinned[which], copies->piece,
					   cudaMemcpyHostToDevice, copies->in));
		check_cuda(cudaEventRecord(copies->emptied[which], copies->in));
	}
	check_cuda(cudaStreamSynchronize(copies->in));
	return clock_ns() - begin_ns;
}
