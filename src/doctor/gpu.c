/* SPDX-License-Identifier: Apache-2.0 */
/* GPUs: what is tried with them, or what the kernel says of those whose driver is not to be had. */
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
	uint32_t nvidia, others;
	char first[TEXT_MAX + 1]; /* PCI address of the first that is told of */
	bool has_driver;          /* NVIDIA's, which tells of its own */
};

static void take_device(void *context, const char *pci)
{
	struct gpus *gpus = context;

	if (!kvx_checkup_is_gpu(gpus->checkup, pci))
		return;
	bool is_nvidia = number(gpus->checkup, pci, "vendor") == VENDOR_NVIDIA;
	gpus->nvidia += is_nvidia;
	gpus->others += !is_nvidia;
	if (!gpus->first[0] && !(is_nvidia && gpus->has_driver))
		snprintf(gpus->first, sizeof(gpus->first), "%s", pci);
}

/* Of what cannot be tried. */
static void check_kernel(struct kvx_checkup *checkup, const struct gpus *gpus, const char *why)
{
	bool has_peermem = kvx_checkup_has_peermem(checkup);
	bool has_dmabuf = kvx_checkup_has_symbol(checkup, "ib_umem_dmabuf_get_pinned");
	bool is_reachable = has_dmabuf || has_peermem;
	bool is_nvidia = gpus->nvidia && !gpus->has_driver;

	kvx_checkup_tell(
		checkup, is_reachable ? KVX_SEVERITY_NOTE : KVX_SEVERITY_WARNING, "gpudirect",
		is_reachable ? is_nvidia ? "see to the driver, so that its memory can be tried"
					 : "register a dma-buf of GPU memory from a program that "
					   "has one (kvx_region_register_dmabuf())"
		: is_nvidia  ? "see to the driver; load ib_uverbs of Linux 5.12 or later with "
			       "NVIDIA's open kernel modules, or modprobe nvidia_peermem"
			     : "load ib_uverbs of Linux 5.12 or later",
		"%u GPUs, the first %s, whose memory cannot be tried: %s; the kernel's RDMA %s "
		"dma-buf, nvidia_peermem is %s",
		gpus->others + (is_nvidia ? gpus->nvidia : 0), gpus->first,
		is_nvidia ? why : "the library knows no driver of that kind",
		has_dmabuf ? "takes" : "shows no sign of taking",
		has_peermem ? "loaded" : "not loaded");
}

void kvx_check_gpus(struct kvx_checkup *checkup)
{
	char why[KVX_FINDING_TEXT_MAX + 1] = "";
	struct gpus gpus = {.checkup = checkup};
	uint32_t count = kvx_check_gpu_memory(checkup, why, sizeof(why));

	gpus.has_driver = count;
	kvx_checkup_each(checkup, "/sys/bus/pci/devices", take_device, &gpus);
	checkup->gpu_count = gpus.others + (count > gpus.nvidia ? count : gpus.nvidia);
	if (!checkup->gpu_count)
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "gpudirect",
				 "nothing, where none is meant to be: host memory is moved",
				 "no GPU");
	else if (gpus.first[0])
		check_kernel(checkup, &gpus, why);
}
