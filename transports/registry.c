/* SPDX-License-Identifier: Apache-2.0 */
#include "transport.h"

#include <string.h>

extern const struct kvx_transport_ops kvx_cuda_ipc_transport;
extern const struct kvx_transport_ops kvx_loop_transport;
extern const struct kvx_transport_ops kvx_shm_transport;
extern const struct kvx_transport_ops kvx_tcp_transport;
extern const struct kvx_transport_ops kvx_verbs_transport;

const struct kvx_transport_ops *const kvx_transports[] = {
	&kvx_loop_transport,  &kvx_cuda_ipc_transport, &kvx_shm_transport,
	&kvx_verbs_transport, &kvx_tcp_transport,      NULL,
};

const struct kvx_transport_ops *kvx_transport_find(const char *name)
{
	for (size_t i = 0; kvx_transports[i]; i++)
		if (strcmp(kvx_transports[i]->name, name) == 0)
			return kvx_transports[i];
	return NULL;
}
