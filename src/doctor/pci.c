/* SPDX-License-Identifier: Apache-2.0 */
/* What stands between two PCI devices that talk to each other: IOMMU and ACS. */
#include "doctor/checkup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 255u
#define COMMAND_LINE_MAX 4095u
#define CLASS_BRIDGE 0x0604u

/* Configuration space. */
#define CONFIG_BYTES 4096u
#define CONFIG_HEADER 64u /* all that a user who is not root may read */
#define CAPABILITIES_AT 0x34u
#define CAPABILITY_EXPRESS 0x10u
#define EXPRESS_CONTROL 8u
#define EXPRESS_RELAXED 0x0010u
#define EXTENDED_AT 0x100u
#define EXTENDED_ACS 0x000du
#define ACS_CONTROL 6u
#define ACS_REDIRECT 0x000cu /* of peer-to-peer requests and of completions */

struct devices {
	struct kvx_checkup *checkup;
	uint32_t gpus, nics;
	uint32_t translated; /* of both: those whose addresses the IOMMU translates */
	uint32_t bridges, unreadable, redirecting;
	char first_translated[TEXT_MAX + 1];
	char first_redirecting[TEXT_MAX + 1];
	char kind[TEXT_MAX + 1]; /* of translation: "DMA-FQ" */
};

static uint32_t load16(const unsigned char *at)
{
	return at[0] | (uint32_t)at[1] << 8;
}

/* Where the capability begins; 0: there is none. Lists are walked no longer than they can be. */
static uint32_t find_express(const unsigned char *config, size_t size)
{
	uint32_t at = size > CONFIG_HEADER ? config[CAPABILITIES_AT] & ~3u : 0;

	for (uint32_t steps = 0; steps < 48 && at >= CONFIG_HEADER; steps++) {
		if (at + EXPRESS_CONTROL + 2 > size)
			return 0;
		if (config[at] == CAPABILITY_EXPRESS)
			return at;
		at = config[at + 1] & ~3u;
	}
	return 0;
}

static uint32_t find_acs(const unsigned char *config, size_t size)
{
	uint32_t at = EXTENDED_AT;

	for (uint32_t steps = 0; steps < CONFIG_BYTES / 4 && at >= EXTENDED_AT; steps++) {
		if (at + ACS_CONTROL + 2 > size)
			return 0;
		if (load16(config + at) == EXTENDED_ACS)
			return at;
		at = (load16(config + at + 2) >> 4) & ~3u;
	}
	return 0;
}

static void take_bridge(struct devices *devices, const char *pci)
{
	unsigned char config[CONFIG_BYTES + 1];
	size_t size = kvx_checkup_read(devices->checkup, (char *)config, sizeof(config),
				       "/sys/bus/pci/devices/%s/config", pci);
	uint32_t acs = find_acs(config, size);

	devices->bridges++;
	devices->unreadable += size <= CONFIG_HEADER;
	if (acs && (load16(config + acs + ACS_CONTROL) & ACS_REDIRECT) &&
	    devices->redirecting++ == 0)
		snprintf(devices->first_redirecting, sizeof(devices->first_redirecting), "%s", pci);
}

static void check_relaxed(struct kvx_checkup *checkup, const char *pci)
{
	unsigned char config[CONFIG_BYTES + 1];
	size_t size = kvx_checkup_read(checkup, (char *)config, sizeof(config),
				       "/sys/bus/pci/devices/%s/config", pci);
	uint32_t express = find_express(config, size);

	if (express && !(load16(config + express + EXPRESS_CONTROL) & EXPRESS_RELAXED))
		kvx_checkup_tell(checkup, KVX_SEVERITY_NOTE, "relaxed ordering",
				 "switch it on in the firmware's setup (PCI relaxed ordering), "
				 "unless the kernel keeps it off because the processor is known to "
				 "be slow with it",
				 "%s: relaxed ordering is off in its PCIe control register", pci);
}

static void take_endpoint(struct devices *devices, const char *pci)
{
	struct kvx_checkup *checkup = devices->checkup;
	bool is_gpu = kvx_checkup_is_gpu(checkup, pci);
	bool is_nic = kvx_checkup_has(checkup, "/sys/bus/pci/devices/%s/infiniband", pci);
	char kind[TEXT_MAX + 1];

	if (!is_gpu && !is_nic)
		return;
	devices->gpus += is_gpu;
	devices->nics += is_nic;
	if (is_nic)
		check_relaxed(checkup, pci);
	if (!kvx_checkup_line(checkup, kind, sizeof(kind),
			      "/sys/bus/pci/devices/%s/iommu_group/type", pci) ||
	    strncmp(kind, "DMA", 3) != 0)
		return;
	if (devices->translated++ == 0) {
		snprintf(devices->first_translated, sizeof(devices->first_translated), "%s", pci);
		snprintf(devices->kind, sizeof(devices->kind), "%s", kind);
	}
}

static void take_device(void *context, const char *pci)
{
	struct devices *devices = context;
	char class[TEXT_MAX + 1];

	if (kvx_checkup_line(devices->checkup, class, sizeof(class),
			     "/sys/bus/pci/devices/%s/class", pci) &&
	    strtoul(class, NULL, 16) >> 8 == CLASS_BRIDGE)
		take_bridge(devices, pci);
	else
		take_endpoint(devices, pci);
}

/* The words of the kernel's command line that are about it. */
static void find_words(const struct kvx_checkup *checkup, char *words, size_t size)
{
	char line[COMMAND_LINE_MAX + 1], *rest = line;
	size_t length = 0;

	words[0] = 0;
	kvx_checkup_line(checkup, line, sizeof(line), "/proc/cmdline");
	for (char *word; (word = strtok_r(rest, " ", &rest));)
		if (strstr(word, "iommu") && length < size)
			length += (size_t)snprintf(words + length, size - length, "%s%s",
						   length ? " " : "", word);
}

static void check_iommu(const struct devices *devices, enum kvx_severity severity)
{
	char words[TEXT_MAX + 1];

	find_words(devices->checkup, words, sizeof(words));
	if (devices->translated)
		kvx_checkup_tell(devices->checkup, severity, "peer to peer",
				 "boot with iommu=pt, unless devices are passed to guests that are "
				 "not trusted",
				 "the IOMMU translates for %u of %u GPUs and NICs (%s: %s; kernel "
				 "command line: %s): what one writes to another goes through the "
				 "processor",
				 devices->translated, devices->gpus + devices->nics,
				 devices->first_translated, devices->kind,
				 words[0] ? words : "nothing of it");
	else
		kvx_checkup_tell(devices->checkup, KVX_SEVERITY_OK, "peer to peer", "",
				 "no IOMMU translates for the %u GPUs and %u NICs", devices->gpus,
				 devices->nics);
}

static void check_acs(const struct devices *devices)
{
	if (devices->redirecting)
		kvx_checkup_tell(devices->checkup, KVX_SEVERITY_WARNING, "peer to peer",
				 "switch ACS off in the firmware's setup, or by setpci "
				 "(ECAP_ACS+6.w=0) on each bridge, unless devices are passed to "
				 "guests that are not trusted",
				 "ACS of %u of %u PCI bridges (%s) sends what a GPU and a NIC "
				 "write to each other up to the processor",
				 devices->redirecting, devices->bridges,
				 devices->first_redirecting);
	else if (devices->unreadable)
		kvx_checkup_tell(devices->checkup, KVX_SEVERITY_NOTE, "peer to peer",
				 "run it as root, once",
				 "ACS of %u of %u PCI bridges can be read by root alone",
				 devices->unreadable, devices->bridges);
	else
		kvx_checkup_tell(devices->checkup, KVX_SEVERITY_OK, "peer to peer", "",
				 "none of %u PCI bridges redirects by ACS", devices->bridges);
}

/* It only matters where a NIC is to reach a GPU; then what is in the way costs most of the speed.
 */
void kvx_check_peer_to_peer(struct kvx_checkup *checkup)
{
	struct devices devices = {.checkup = checkup};

	kvx_checkup_each(checkup, "/sys/bus/pci/devices", take_device, &devices);
	bool matters = devices.gpus && devices.nics;
	if (devices.gpus || devices.nics)
		check_iommu(&devices, matters ? KVX_SEVERITY_WARNING : KVX_SEVERITY_NOTE);
	if (matters)
		check_acs(&devices);
	else
		kvx_checkup_tell(checkup, KVX_SEVERITY_OK, "peer to peer", "",
				 "no pair of a GPU and a NIC that could reach each other");
}
