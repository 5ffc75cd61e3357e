/* SPDX-License-Identifier: Apache-2.0 */
/* Every path and method of docs/control-api.md. */
#include "control/handlers.h"
#include "control/metrics.h"

const struct kvx_route kvx_routes[] = {
	/* clang-format off */
	{"GET",    "/v1/status",              kvx_serve_status,         false},
	{"GET",    "/v1/options",             kvx_serve_options,        false},
	{"PATCH",  "/v1/options",             kvx_serve_options_change, true},
	{"GET",    "/v1/topology",            kvx_serve_topology,       false},
	{"GET",    "/v1/regions",             kvx_serve_regions,        false},
	{"GET",    "/v1/pools",               kvx_serve_pools,          false},
	{"GET",    "/v1/pools/{id}",          kvx_serve_pool,           false},
	{"POST",   "/v1/pools/{id}/checksum", kvx_serve_checksum,       true},
	{"GET",    "/v1/peers",               kvx_serve_peers,          false},
	{"POST",   "/v1/peers",               kvx_serve_peer_connect,   true},
	{"GET",    "/v1/peers/{id}",          kvx_serve_peer,           false},
	{"DELETE", "/v1/peers/{id}",          kvx_serve_peer_forget,    false},
	{"GET",    "/v1/grants",              kvx_serve_grants,         false},
	{"POST",   "/v1/grants",              kvx_serve_grant_open,     true},
	{"GET",    "/v1/grants/{id}",         kvx_serve_grant,          false},
	{"DELETE", "/v1/grants/{id}",         kvx_serve_grant_end,      false},
	{"POST",   "/v1/grants/{id}/pull",    kvx_serve_grant_pull,     true},
	{"GET",    "/v1/streams",             kvx_serve_streams,        false},
	{"POST",   "/v1/streams",             kvx_serve_stream_open,    true},
	{"GET",    "/v1/streams/{id}",        kvx_serve_stream,         false},
	{"DELETE", "/v1/streams/{id}",        kvx_serve_stream_end,     false},
	{"POST",   "/v1/streams/{id}/ready",  kvx_serve_stream_ready,   true},
	{"POST",   "/v1/offers",              kvx_serve_offer_open,     true},
	{"GET",    "/v1/drain",               kvx_serve_drain,          false},
	{"POST",   "/v1/drain",               kvx_serve_drain_begin,    true},
	{"DELETE", "/v1/drain",               kvx_serve_drain_end,      false},
	{"GET",    "/v1/events",              kvx_events_follow,        false},
	{"GET",    "/metrics",                kvx_metrics_serve,        false},
	{0},
	/* clang-format on */
};
