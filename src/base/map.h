/* SPDX-License-Identifier: Apache-2.0 */
/* Shared mappings that huge pages can back. */
#ifndef KVX_BASE_MAP_H
#define KVX_BASE_MAP_H

#include <stddef.h>

/* Maps the first bytes of fd, shared, aligned to 2 MiB so that huge pages of the file can be mapped
 * as such. protection as for mmap(2). Returns NULL with errno set; munmap() frees it. */
void *kvx_map_shared(int fd, size_t bytes, int protection);

#endif
