/* SPDX-License-Identifier: Apache-2.0 */
/* What a stream would say first, for who speaks the protocol by hand. Sees the library's internals.
 */
#ifndef KVX_TESTS_OPENING_H
#define KVX_TESTS_OPENING_H

#include "core/message.h"
#include "core/ticket.h"

/* The OPEN of a stream of this ticket, alone and between pools that are alike: right in every
 * field. */
struct kvx_message opening_of(const struct kvx_ticket *ticket, uint64_t stream, uint32_t units);

#endif
