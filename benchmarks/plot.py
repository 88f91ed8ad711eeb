#!/usr/bin/env python3
"""Draws docs/performance.svg from the results of run_gpu.py and fills the tables of docs/performance.md and README.md.

    benchmarks/plot.py benchmarks/results/gpu-h100.jsonl

The pages' words are written by hand; what stands between `<!-- NAME -->` and `<!-- end -->` is replaced. Needs nothing but
the standard library.
"""

import argparse
import json
import pathlib
import re
from xml.sax.saxutils import escape

from gpu.rows import (
    FUSED_LOSS, GRAPH, HF, INDUCTOR, MASTERS, MASTERS_FUSED_LOSS, PLAIN_GRAPH, PREPARED, REDUCE, ROWS, SWITCHES,
)
from gpu.table import Results, machines, number, table, targets_table

OURS = (GRAPH, MASTERS, FUSED_LOSS, MASTERS_FUSED_LOSS)
ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a bar shows, of which contestants the fastest, its colour.
BARS = (
    ("Accelerate, eager", (HF,), "#9aa5b1"),
    ("Accelerate + torch.compile, its fastest mode", (INDUCTOR, REDUCE), "#52606d"),
    ("CUDA graph written by hand", (PLAIN_GRAPH,), "#d9b44a"),
    ("accelerate.cpp, eager", (PREPARED,), "#7fb3e6"),
    ("accelerate.cpp, .cuda_graph", OURS, "#1f6fb2"),
)
LEFT, WIDTH, BAR, GAP, TOP = 290, 520, 15, 16, 74


def bars(results):
    """Of each row that has both sides: its title, and (bar, ms) for what has run."""
    groups = []
    for name, row in ROWS.items():
        measured = []
        for bar in BARS:
            who = results.fastest(name, [who for who in bar[1] if who in row.contestants])
            if who is not None:
                measured.append((bar, results.median(name, who)))
        labels = {bar[0] for bar, _ in measured}
        if BARS[0][0] in labels and len(labels) > 1:
            groups.append((row.title, measured))
    return groups


def svg(results):
    """Bars by task, as long as the step is, the peer's eager step being 1 in each task."""
    groups = bars(results)
    body, y = [], TOP

    def text(x, y, words, size=12, anchor="start", color="#1f2933"):
        body.append(f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>')

    longest = max((ms / measured[0][1] for _, measured in groups for _, ms in measured), default=1)
    scale = WIDTH / max(1.0, longest)
    for title, measured in groups:
        unit = measured[0][1]
        text(LEFT - 10, y + len(measured) * BAR / 2 + 4, title, anchor="end")
        for (label, _, color), ms in measured:
            length = max(1.0, ms / unit * scale)
            words = f"{label}: {number(ms)} ms"
            body.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{color}"><title>{escape(words)}</title></rect>'
            )
            text(LEFT + length + 5, y + BAR - 4, f"{number(ms)} ms" + ("" if ms == unit else f"  ({ms / unit:.2f})"), size=11)
            y += BAR
        y += GAP
    height = y + 6
    keys = []
    for index, (label, _, color) in enumerate(BARS):
        x, row = 20 + 300 * (index % 3), 34 + 18 * (index // 3)
        keys.append(f'<rect x="{x}" y="{row - 10}" width="12" height="12" fill="{color}"/>')
        keys.append(f'<text x="{x + 18}" y="{row}" font-size="12" fill="#1f2933">{escape(label)}</text>')
    total = LEFT + WIDTH + 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" viewBox="0 0 {total} {height}" '
        f'font-family="Helvetica, Arial, sans-serif">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f'<text x="20" y="16" font-size="13" fill="#1f2933">Time of a training step; Accelerate, eager = 1 in each task; shorter is '
        f"faster</text>\n" + "\n".join(keys + body) + "\n</svg>\n"
    )


def switches_table(results):
    rows = []
    for words, name, without, with_it in SWITCHES:
        before, after = results.median(name, without), results.median(name, with_it)
        if before is None or after is None:
            continue
        factor = 1 / results.ratio(name, with_it, without)
        memory = [results.median(name, who, "peak_gpu_gb") for who in (without, with_it)]
        rows.append([words, ROWS[name].title, number(before), number(after), f"{factor:.2f}", " -> ".join(map(number, memory))])
    return table(["switch", "task", "without, ms", "with, ms", "times as fast", "peak GPU memory, GB"], rows)


def readme_table(results):
    """The rows that have the peer and a graph of ours, with what the table is."""
    sides = (OURS, (PLAIN_GRAPH,), (HF,), (INDUCTOR, REDUCE))
    rows = []
    for name, row in ROWS.items():
        found = [results.fastest(name, [who for who in side if who in row.contestants]) for side in sides]
        if found[0] is None or found[2] is None:
            continue
        ours = found[0]
        factors = [1 / results.ratio(name, ours, who) for who in found[2:] if who is not None]
        cells = [number(results.median(name, who)) if who else "-" for who in found]
        rows.append([row.title, *cells, " / ".join(f"{factor:.2f}" for factor in factors)])
    if not rows:
        return ""
    gpus = sorted({gpu for session in set(results.session_of.values()) for gpu in results.sessions[session]["gpus"]})
    head = (
        f"Milliseconds a training step on {', '.join(gpus)}: the loop above, unchanged, with `.cuda_graph = CudaGraph{{}}` (and, where that is faster, bf16 parameters with fp32 masters and the fused loss of language models); a CUDA graph "
        "of the same step written by hand; Accelerate 1.15.0, and its faster mode of `torch.compile`. Same nets, first weights and "
        "batches. More, and how: [docs/performance.md](docs/performance.md).\n\n"
    )
    header = ["task", "accelerate.cpp", "graph by hand", "Accelerate", "Accelerate, compiled", "times as fast as Accelerate / compiled"]
    return head + table(header, rows) + "\n"


def filled(page, parts):
    """The page with each part between its marks."""
    for name, text in parts.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        if len(marked.findall(page)) != 1:
            raise ValueError(f"the page has to have one part <!-- {name} --> ... <!-- end -->")
        page = marked.sub(lambda match: match[1] + text + match[2], page)
    return page


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path, help="lines written by run_gpu.py")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs/performance.md")
    parser.add_argument("--readme", type=pathlib.Path, default=ROOT / "README.md")
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "docs/performance.svg")
    arguments = parser.parse_args()
    records = [json.loads(line) for line in arguments.results.read_text().splitlines() if line.strip()]
    results = Results(record for record in records if "tests" not in record)
    arguments.svg.write_text(svg(results))
    parts = {
        "picture": f"![Time of a training step by task]({arguments.svg.name})\n",
        "machines": machines(results),
        "switches": switches_table(results),
        "targets": targets_table(results).split("\n\n", 1)[1],
    }
    arguments.page.write_text(filled(arguments.page.read_text(), parts))
    arguments.readme.write_text(filled(arguments.readme.read_text(), {"gpu": readme_table(results)}))


if __name__ == "__main__":
    main()
