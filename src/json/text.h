/* SPDX-License-Identifier: Apache-2.0 */
/* Text of others as JSON. */
#ifndef KVX_JSON_TEXT_H
#define KVX_JSON_TEXT_H

#include <jansson.h>

/* JSON is UTF-8, which a path, a host's name or what a peer says need not be: then each byte that
 * is not ASCII becomes "?". NULL: no memory. */
json_t *kvx_json_text(const char *text);

#endif
