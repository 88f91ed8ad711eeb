"""From the lines of run_gpu.py to a Markdown report."""

import statistics

from gpu.rows import CONTESTANTS, PLAIN, PUBLISHED, ROWS


class Results:
    """The lines by row and contestant; of each row those of the last invocation that measured it."""

    def __init__(self, records):
        records = list(records)
        self.sessions = {one["session"]: one for one in records if "row" not in one}
        runs = [one for one in records if "row" in one and one["row"] in ROWS]
        self.session_of, self.rounds, self.why, self.said = {}, {}, {}, {}
        for one in runs:
            if "result" in one:
                self.session_of[one["row"]] = max(one["session"], self.session_of.get(one["row"], ""))
        for one in runs:
            key = one["row"], one["contestant"]
            if one["session"] != self.session_of.get(one["row"], one["session"]):
                continue
            if "result" in one:
                self.rounds.setdefault(key, {})[one["round"]] = one["result"]
            else:
                self.why[key] = one["why"]
            for text in one.get("said", []):
                self.said.setdefault(key, []).append(text)

    def median(self, row, who, key="ms"):
        values = [result[key] for result in self.rounds.get((row, who), {}).values()]
        return statistics.median(values) if values else None

    def fastest(self, row, contestants):
        """Of these the one with the least ms; None if none has run."""
        measured = [who for who in contestants if self.median(row, who) is not None]
        return min(measured, key=lambda who: self.median(row, who)) if measured else None

    def ratio(self, row, who, to, to_row=None, key="ms"):
        """Formed inside each round that has both, then the median; between rows of the medians."""
        ours, theirs = self.rounds.get((row, who), {}), self.rounds.get((to_row or row, to), {})
        if not ours or not theirs:
            return None
        common = ours.keys() & theirs.keys() if to_row is None else ()
        if common:
            return statistics.median(ours[index][key] / theirs[index][key] for index in common)
        return self.median(row, who, key) / self.median(to_row or row, to, key)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def number(value):
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def machines(results):
    text = ""
    for session in sorted(set(results.session_of.values())):
        one = results.sessions.get(session, {})
        gpus = one.get("gpus", [])
        text += (
            f"- {len(gpus)} x {gpus[0] if gpus else 'unknown'}, driver {one.get('driver')}, {one.get('cpu')}; "
            f"{one.get('date')}: {', '.join(row for row in ROWS if results.session_of.get(row) == session)}\n"
            f"  - ours: commit {one.get('commit')}; LibTorch and torch {one.get('torch')}; peer: Accelerate "
            f"{one.get('accelerate')}, Python {one.get('python')}\n  - command: `{one.get('command')}`\n"
        )
    return text


def steps_table(results):
    names = [who for who in CONTESTANTS if any(key[1] == who for key in results.rounds)]
    rows = []
    for name, row in ROWS.items():
        if name not in results.session_of:
            continue
        cells = ["" if who not in row.contestants else number(results.median(name, who)) for who in names]
        rows.append([row.title, *cells])
    return "## Milliseconds a step\n\n" + table(["task", *names], rows)


def judged(results, name, target):
    """Words for the target, the measured value, and whether it is met (None: not measured)."""
    to = results.fastest(target.to_row or name, target.to) if target.to else None
    limit = f"<= {target.at_most:g}" if target.at_most is not None else f">= {target.at_least:g}"
    what = {"ms": "step", "host_ms": "host time alone, ms", "peak_gpu_gb": "peak GPU memory, GB",
            "captured_step_s": "start to the end of step 6, s"}[target.key]
    wanted = f"{target.who}: {what}"
    if target.to:
        where = f" in {ROWS[target.to_row].title}" if target.to_row else ""
        names = to or " or ".join(target.to)
        value = results.ratio(name, target.who, to, target.to_row, target.key) if to else None
        wanted += f" {limit} x {names}{where}"
    else:
        value = results.median(name, target.who, target.key)
        wanted += f" {limit}"
    if target.or_more is not None:
        wanted += f" or {target.or_more:g} ms more"
    if value is None:
        return wanted, "-", None
    met = value <= target.at_most if target.at_most is not None else value >= target.at_least
    if not met and target.or_more is not None:
        more = results.median(name, target.who) - results.median(target.to_row or name, to)
        met = more <= target.or_more
    return wanted, number(value), met


def targets_table(results):
    rows = []
    for name, row in ROWS.items():
        for target in row.targets:
            wanted, value, met = judged(results, name, target)
            needed = [(name, target.who)] + [(target.to_row or name, who) for who in target.to]
            why = next((results.why[key] for key in needed if key in results.why), "not run")
            rows.append([row.title, wanted, value, {True: "yes", False: "**no**", None: why}[met]])
    return "## To reach\n\n" + table(["task", "to reach", "measured", "met"], rows)


def costs_table(results):
    rows = []
    for name, who in sorted(results.rounds, key=lambda key: (list(ROWS).index(key[0]), list(CONTESTANTS).index(key[1]))):
        of = lambda key: number(results.median(name, who, key))
        first = results.rounds[name, who][min(results.rounds[name, who])]
        start = [f"{first['first_step_s']:.2f}", f"{first['captured_step_s']:.2f}"]
        rows.append([ROWS[name].title, who, of("host_ms"), of("peak_gpu_gb"), of("reserved_gpu_gb"), *start, len(results.rounds[name, who])])
    head = "## Host time alone, memory, start\n\nFrom exec, in the first round, when nothing was cached.\n\n"
    return head + table(["task", "loop", "host, ms", "peak, GB", "reserved, GB", "first step, s", "step 6, s", "rounds"], rows)


def losses_table(results):
    rows = []
    for name, row in ROWS.items():
        reference = results.rounds.get((name, PLAIN), {})
        for who in row.contestants:
            runs = results.rounds.get((name, who), {})
            if not reference or not runs or who == PLAIN or who in PUBLISHED:  # these have other weights
                continue
            ours, theirs = (next(iter(one.values()))["losses"] for one in (runs, reference))
            far = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs))
            rows.append([row.title, who, min(len(ours), len(theirs)), f"{far:.1e}"])
    if not rows:
        return ""
    head = f"## The same numbers\n\nLargest relative distance of the first losses from those of the loop {PLAIN}; bert drops out.\n\n"
    return head + table(["task", "loop", "losses", "distance"], rows)


def left_out(results):
    lines = [f"- {ROWS[name].title}, {who}: {why}\n" for (name, who), why in results.why.items()]
    lines += [f"- {ROWS[name].title}, {who}, said: {text}\n" for (name, who), said in results.said.items() for text in dict.fromkeys(said)]
    return "## Left out, failed, said\n\n" + "".join(lines) if lines else ""


def tests(records):
    """What the GPU tests said last: lines {"tests": "..."}."""
    lines = [f"- {record['tests']}\n" for record in records if "tests" in record]
    return "## GPU tests\n\n" + "".join(lines) if lines else ""


def report(records):
    records = list(records)
    results = Results(record for record in records if "tests" not in record)
    head = (
        "# Tasks on GPUs\n\nMade by `benchmarks/run_gpu.py` from the lines beside it; nothing here is written by hand.\n\n"
        + machines(results)
        + "- AdamW (fused kernels on all sides where not said otherwise), clipping at 1.0, the same data, order and first "
        "weights; medians of 6 windows after warm-up, ratios formed inside a round, medians over the rounds\n"
    )
    parts = [steps_table, targets_table, costs_table, losses_table, left_out]
    texts = [tests(records), *(part(results) for part in parts)]
    return "\n".join([head, *(text for text in texts if text)])
