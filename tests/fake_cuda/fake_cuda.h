/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA driver that needs no GPU: the functions of src/cuda/abi.h. A program gets it in the place
 * of the real one through LD_LIBRARY_PATH, or links it; this header is how a test steers it and
 * looks inside.
 *
 * Device memory is address space that nobody may touch, so that a stray access of the CPU ends the
 * program; its bytes are a file in memory that only the fake sees, through a second mapping. Each
 * stream is a thread that carries out what it is given in order, later than the call. Where real
 * drivers differ the fake is the strict one:
 *  - calls need a current context, and the stream's own for what is put into it
 *  - streams do not wait for the default stream, nor it for them
 *  - an asynchronous copy from or to host memory that is not pinned ends the program
 *  - memory that is freed while work for it waits is an illegal address once its turn comes
 *  - while a stream is captured, calls that might disturb it fail, and the capture with them, as
 *    the threads' modes say (cuThreadExchangeStreamCaptureMode())
 *  - small allocations do not begin at a page, their dma-buf does
 *
 * FAKE_CUDA_OPTIONS sets options: "devices=1,delay_us=200". FAKE_CUDA_PCI lists the devices' PCI
 * addresses, separated by commas; "0000:3a:00.0,0000:4a:00.0,..." is what they have without it, and
 * as of a real driver they are told in capitals.
 *
 * Kernels are known by their names. kvx_signal(uint32_t *word), kvx_wait(const uint32_t *word,
 * uint32_t value) and kvx_gather(copies, uint32_t count) are in any module whose text has their
 * names; fake_fill(uint64_t address, uint32_t value, uint64_t words), which writes value + i to
 * word i, is in a module whose text begins with "fake:". In a process that was forked from one that
 * used the fake it does not work.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

/*
 * X(name, value it begins with):
 *
 * devices     how many, at most 8
 * absent      1: cuInit() says that there is no device
 * batch       cuMemcpyBatchAsync(); 2: it is there, and refuses
 * dmabuf      cuMemGetHandleForAddressRange()
 * pcie        and its flag for a mapping by PCI
 * memops      cuStreamWriteValue32() and cuStreamWaitValue32()
 * kernels     cuModuleLoadData()
 * pin         cuMemHostRegister(); without it there is not enough memory
 * ordering    of remote writes: 0 none, 100 for the owner, 200 for all devices
 * flush       cuFlushGPUDirectRDMAWrites()
 * ipc         cuIpcGetMemHandle()
 * delay_us    each copy takes that long
 * fail_after  the n-th copy from now on is of an illegal address, and so is all after it until the
 *             device's context is made anew
 * version     of the driver
 */
#define FAKE_CUDA_OPTIONS(X) \
	X(devices, 2)        \
	X(absent, 0)         \
	X(batch, 1)          \
	X(dmabuf, 1)         \
	X(pcie, 1)           \
	X(memops, 1)         \
	X(kernels, 1)        \
	X(pin, 1)            \
	X(ordering, 200)     \
	X(flush, 1)          \
	X(ipc, 1)            \
	X(delay_us, 0)       \
	X(fail_after, 0)     \
	X(version, 13000)

/* An option that there is not ends the program, as do all mistakes of a test. */
void fake_cuda_set(const char *option, uint64_t value);
uint64_t fake_cuda_get(const char *option);

/* Where the CPU may touch the byte of that device address, and all up to its allocation's end; NULL
 * if it is not the device's. What streams have not done yet is not there. */
void *fake_cuda_view(const void *device_address);

/* How many there were: copies carried out, those of kvx_gather included; kernels; flushes. */
uint64_t fake_cuda_copies(void);
uint64_t fake_cuda_launches(void);
uint64_t fake_cuda_flushes(void);

/* What a program has still to give back: contexts retained, allocations, registrations, streams,
 * events, modules, graphs; and what it had not, of those contexts that are gone. */
uint64_t fake_cuda_live(void);
uint64_t fake_cuda_leaked(void);

/* In a module whose text begins so; see above. */
#define FAKE_CUDA_MODULE "fake:"
#define FAKE_CUDA_FILL "fake_fill"

#endif
