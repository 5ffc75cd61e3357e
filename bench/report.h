/* SPDX-License-Identifier: Apache-2.0 */
/* What a run says: to people, and as one JSON object. */
#ifndef KVX_BENCH_REPORT_H
#define KVX_BENCH_REPORT_H

#include "drive.h"

/* "ok", "failed" or "off". */
const char *kvx_report_verify(const struct kvx_drive *drive);

/* For people: what is moved and how, before it is. */
void kvx_report_header(const struct kvx_drive *drive);

/* For people: what came of it. */
void kvx_report_summary(const struct kvx_drive *drive);

/* To the file of --json, if that was given. Returns 0 or -1 (kvx_failure_text()). */
int kvx_report_json(const struct kvx_drive *drive);

#endif
