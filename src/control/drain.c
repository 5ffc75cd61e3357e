/* SPDX-License-Identifier: Apache-2.0 */
/* Draining and resuming. */
#include "control/handlers.h"
#include "control/json.h"

static void answer_drain(struct kvx_request *request)
{
	struct kvx_drain_view view;

	kvx_engine_drain_state(request->engine, &view);
	kvx_json_answer(request, 200, kvx_json_drain(&view));
}

void kvx_serve_drain(struct kvx_request *request)
{
	struct kvx_drain_view view;
	uint64_t wait_ms;

	if (!kvx_request_number(request, "wait_ms", 0, 0, KVX_CONTROL_WAIT_MAX_MS, &wait_ms))
		return;
	kvx_engine_drain_state(request->engine, &view);
	if (view.state != KVX_DRAIN_WAITING || !kvx_request_waits(request, wait_ms))
		kvx_json_answer(request, 200, kvx_json_drain(&view));
}

void kvx_serve_drain_begin(struct kvx_request *request)
{
	uint64_t deadline_ms = 0;
	const struct kvx_field fields[] = {
		{"deadline_ms", KVX_FIELD_NUMBER, true, 1, KVX_TIMEOUT_MAX_MS, &deadline_ms}};

	if (!kvx_request_fields(request, request->body, "", fields, 1))
		return;
	int error = kvx_engine_drain(request->engine, (uint32_t)deadline_ms);
	if (error)
		kvx_answer_error(request, error);
	else
		answer_drain(request);
}

void kvx_serve_drain_end(struct kvx_request *request)
{
	int error = kvx_engine_resume(request->engine);

	if (error)
		kvx_answer_error(request, error);
	else
		answer_drain(request);
}
