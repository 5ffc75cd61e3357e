/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics: the engine's figures as text for Prometheus. docs/metrics.md lists them. */
#ifndef KVX_CONTROL_METRICS_H
#define KVX_CONTROL_METRICS_H

#include "control/request.h"

kvx_handler kvx_metrics_serve;

#endif
