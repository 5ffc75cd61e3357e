# SPDX-License-Identifier: Apache-2.0
"""Whether the samples of a soak are flat: the curve at ten points, and the median of the last
quarter against that of the second. (The first quarter is for caches to fill.)"""
import statistics

POINTS = 10

# Under load, for each process: what may be added to the second quarter's median, as a share of it
# and as a number. Visitors come and go by chance, so the figures that count them are not steady.
LOADED = {
    "anonymous_kib": (0.05, 1024),
    "rss_kib": (0.10, 8192),
    "mappings": (0.10, 10),
    "descriptors": (0.10, 10),
    "threads": (0, 0),
    "peers": (0.25, 2),
    "grants": (0.25, 8),
    "streams": (0.25, 8),
}
# Of all processes together: the machine is not ours alone.
LATENCY = {"p50_us": (0.5, 100), "p99_us": (1.0, 2000)}

# While nobody drives and no visitor is there, against the first time.
QUIET = {
    "anonymous_kib": (0.05, 2048),
    "mappings": (0.0, 16),
    "descriptors": (0, 0),
    "threads": (0, 0),
    "peers": (0, 0),
    "regions": (0, 0),
}
MEMORY = ("anonymous_kib", "mappings")
NONE_LEFT = ("grants", "streams", "busy")


def median(rows, field):
    """Of latencies: of samples that hold any."""
    values = [row[field] for row in rows
              if not field.startswith("p") or field == "peers" or row["times"]]
    return statistics.median(values) if values else 0


def processes(rows):
    found = {}
    for row in rows:
        found.setdefault((row["transport"], row["name"]), []).append(row)
    return found


def part(rows, first, end):
    """The samples between two shares of the time."""
    count = len(rows)
    return rows[int(count * first):int(count * end)] or rows[-1:]


def exceeds(before, after, tolerance):
    share, number = tolerance
    return after > before * (1 + share) + number


def findings_under_load(rows):
    for (transport, name), own in processes(rows).items():
        early, late = part(own, 0.25, 0.5), part(own, 0.75, 1)
        for field, tolerance in LOADED.items():
            before, after = median(early, field), median(late, field)
            if exceeds(before, after, tolerance):
                yield f"{transport} {name}: {field} rose from {before:g} to {after:g}"


def findings_of_latency(rows):
    for transport in sorted({row["transport"] for row in rows}):
        own = [row for row in rows if row["transport"] == transport]
        early, late = part(own, 0.25, 0.5), part(own, 0.75, 1)
        for field, tolerance in LATENCY.items():
            before, after = median(early, field), median(late, field)
            if exceeds(before, after, tolerance):
                yield f"{transport}: {field} rose from {before:g} to {after:g}"


def findings_at_rest(rows, with_memory):
    for (transport, name), own in processes(rows).items():
        for row in own:
            for field in NONE_LEFT:
                if row[field]:
                    yield (f"{transport} {name} at rest after {row['time_s']} s: "
                           f"{row[field]} {field}")
            for field, tolerance in QUIET.items():
                if field in MEMORY and not with_memory:
                    continue
                if exceeds(own[0][field], row[field], tolerance):
                    yield (f"{transport} {name} at rest: {field} were {own[0][field]} at first, "
                           f"{row[field]} after {row['time_s']} s")


def findings(run, is_long, with_memory):
    """All that is not as it should be."""
    found = list(run.complaints)
    if run.wrong:
        found.append(f"{run.wrong} bytes wrong")
    found += [f"{row['transport']} {row['name']}: {row['protocol_errors']} protocol errors"
              for row in run.rows[-len(processes(run.rows)):] if row["protocol_errors"]]
    found += findings_at_rest([row for row in run.rows if row["point"] == "quiet"], with_memory)
    if is_long:
        loaded = [row for row in run.rows if row["point"] == "load"]
        found += [*findings_under_load(loaded), *findings_of_latency(loaded)]
    return found


CURVE = ("rss_kib", "anonymous_kib", "mappings", "descriptors", "threads", "grants", "streams",
         "peers")


def curve(rows, kind):
    """Lines: sums over the processes of a transport, medians over each tenth of the samples."""
    rows = [row for row in rows if row["point"] == kind]
    yield ("transport | s | RSS MiB | anonymous MiB | mappings | descriptors | threads | grants | "
           "streams | peers | p50 us | p99 us | requests | load")
    for transport in sorted({row["transport"] for row in rows}):
        own = list(processes(row for row in rows if row["transport"] == transport).values())
        points = min(POINTS, len(own[0]))
        for point in range(points):
            parts = [part(one, point / points, (point + 1) / points) for one in own]
            sums = [sum(median(one, field) for one in parts) for field in CURVE]
            sums[0], sums[1] = sums[0] / 1024, sums[1] / 1024
            together = [row for one in parts for row in one]
            yield " | ".join([
                transport, f"{parts[0][-1]['time_s']:.0f}",
                *(f"{value:.1f}" for value in sums[:2]), *(f"{value:g}" for value in sums[2:]),
                f"{median(together, 'p50_us'):g}", f"{median(together, 'p99_us'):g}",
                str(sum(one[-1]["requests"] for one in parts)),
                f"{median(together, 'load'):g}"])


def outcomes(run):
    """Lines: kinds of requests, and how often each ended how."""
    kinds = {}
    for key, count in run.outcomes.items():
        kind, result = key.split("|")
        kinds.setdefault(kind, []).append(f"{result.removeprefix('KVX_E_').lower()} {count}")
    for kind, results in kinds.items():
        yield f"{kind} | {', '.join(sorted(results))}"


def lines(run, is_long, with_memory=True):
    """The whole report, the verdict last; and whether it is good. Few samples say nothing of what
    visitors and the machine make unsteady: then what is there at rest is judged alone. A sanitizer
    keeps memory that was freed."""
    found = findings(run, is_long, with_memory)
    text = ["while requests run: sums over the peers that stay, medians of each tenth"]
    text += curve(run.rows, "load")
    text += ["at rest, without visitors"]
    text += curve(run.rows, "quiet")
    text += ["kind of request | how it ended"]
    text += outcomes(run)
    text += [f"not flat: {finding}" for finding in found[:40]]
    judged = ["memory, mappings"] * with_memory + ["descriptors, threads, objects"]
    judged += ["also under load, and latency"] * is_long
    text.append(
        f"{'NOT ' if found else ''}FLAT: {', '.join(judged)}; {run.settings.seconds / 60:g} "
        f"minutes, {sum(run.outcomes.values())} requests, {run.bytes / 2**30:.1f} GiB verified, "
        f"{run.wrong} bytes wrong, visitors closed {run.ends['closed']}, killed "
        f"{run.ends['killed']}; {len(found)} findings")
    return text, not found


def report(run, is_long):
    """Prints it; the exit status."""
    text, good = lines(run, is_long)
    print(*text, sep="\n", flush=True)
    return 0 if good else 1
