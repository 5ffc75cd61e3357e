/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which ports a place uses, and how much. No I/O, no allocation, no clock: every process of a
 * machine comes to the same choice.
 *
 * A place uses the ports of its nearest class that are up, fit and not far slower than the best of
 * them, each in proportion to the slower of its link and its PCIe path. GPUs whose ports are the
 * same, or overlap, share them: each port gets about as many GPUs as any other in proportion to its
 * speed, and each GPU as few ports as that allows.
 */
#ifndef KVX_TOPOLOGY_CHOOSE_H
#define KVX_TOPOLOGY_CHOOSE_H

#include "topology/machine.h"

/* A port slower than this part of the best of its class is left out: beside 400 Gb/s a port of 25
 * is a function for something else, and two equal generations are at most a factor of 2 apart. */
#define KVX_FAR_SLOWER 4.0

/* Fills use, reason and weight of all pairs. */
void kvx_choose(struct kvx_machine *machine);

/* The slower of port and path, Gb/s; 0: not known. */
double kvx_choose_speed(const struct kvx_machine *machine, uint32_t place, uint32_t port);

/*
 * Lays the intervals of `left` and of `right` along one line and gives each overlap to overlap():
 * how shares on one side meet shares on the other in as few pieces as possible. Both sums are
 * about the same; the last interval of each reaches the end.
 */
void kvx_choose_overlay(const double *left, uint32_t left_count, const double *right,
			uint32_t right_count,
			void (*overlap)(void *context, uint32_t left, uint32_t right,
					double length),
			void *context);

#endif
