/* SPDX-License-Identifier: Apache-2.0 */
/* What a PCIe link carries. */
#ifndef KVX_TOPOLOGY_LINK_H
#define KVX_TOPOLOGY_LINK_H

#include <stdint.h>

/* Gb/s of a link of that rate (GT/s) and width: generations 1 and 2 send 10 bits for 8, 3 to 5 send
 * 130 for 128, and later ones 256 bytes for 242. 0: not known. */
static inline double kvx_link_gbps(double gts, uint32_t width)
{
	double payload = gts <= 5 ? 8.0 / 10 : gts <= 32 ? 128.0 / 130 : 242.0 / 256;

	return gts > 0 && gts < 1000 && width <= 32 ? gts * payload * width : 0;
}

#endif
