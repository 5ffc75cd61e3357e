/* SPDX-License-Identifier: Apache-2.0 */
/* GPUs, as far as they can be seen without their library. */
#include "doctor/checkup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 255u
#define VENDOR_NVIDIA 0x10deu
/* PCI classes, without the programming interface. */
#define CLASS_VGA 0x0300u
#define CLASS_3D 0x0302u
#define CLASS_DISPLAY 0x0380u
#define BASE_ACCELERATOR 0x12u

static unsigned long number(const struct kvx_checkup *checkup, const char *pci, const char *file)
{
	char text[TEXT_MAX + 1];

	if (!kvx_checkup_line(checkup, text, sizeof(text), "/sys/bus/pci/devices/%s/%s", pci, file))
		return 0;
	return strtoul(text, NULL, 16);
}

/* A server's console is a VGA controller too, so of those only NVIDIA's count. */
bool kvx_checkup_is_gpu(const struct kvx_checkup *checkup, const char *pci)
{
	unsigned long class = number(checkup, pci, "class") >> 8;

	return class == CLASS_3D || class == CLASS_DISPLAY || class >> 8 == BASE_ACCELERATOR ||
	       (class == CLASS_VGA && number(checkup, pci, "vendor") == VENDOR_NVIDIA);
}

struct gpus {
	struct kvx_checkup *checkup;
	bool is_nvidia;           /* one of them at least */
	char first[TEXT_MAX + 1]; /* its PCI address */
};

static void take_device(void *context, const char *pci)
{
	struct gpus *gpus = context;

	if (!kvx_checkup_is_gpu(gpus->checkup, pci))
		return;
	if (gpus->checkup->gpu_count++ == 0)
		snprintf(gpus->first, sizeof(gpus->first), "%s", pci);
	gpus->is_nvidia |= number(gpus->checkup, pci, "vendor") == VENDOR_NVIDIA;
}

void kvx_check_gpus(struct kvx_checkup *checkup)
{
	struct gpus gpus = {.checkup = checkup};

	kvx_checkup_each(checkup, "/sys/bus/pci/devices", take_device, &gpus);
	if (!checkup->gpu_count) {
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "gpudirect",
				 "nothing, where none is meant to be: host memory is moved",
				 "no GPU");
		return;
	}
	bool has_peermem = kvx_checkup_has(checkup, "/sys/module/nvidia_peermem") ||
			   kvx_checkup_has(checkup, "/sys/module/nv_peer_mem");
	bool has_dmabuf = kvx_checkup_has_symbol(checkup, "ib_umem_dmabuf_get_pinned");
	bool is_reachable = has_dmabuf || has_peermem;
	kvx_checkup_tell(
		checkup, is_reachable ? KVX_SEVERITY_NOTE : KVX_SEVERITY_WARNING, "gpudirect",
		is_reachable ? "register a dma-buf of GPU memory from a program that has one "
			       "(kvx_region_register_dmabuf())"
		: gpus.is_nvidia
			? "load ib_uverbs of Linux 5.12 or later with NVIDIA's open kernel "
			  "modules, or modprobe nvidia_peermem"
			: "load ib_uverbs of Linux 5.12 or later",
		"%u GPUs, the first %s: this build has no CUDA, so that it cannot register their "
		"memory to try; the kernel's RDMA %s dma-buf, nvidia_peermem is %s",
		checkup->gpu_count, gpus.first, has_dmabuf ? "takes" : "shows no sign of taking",
		has_peermem ? "loaded" : "not loaded");
}
