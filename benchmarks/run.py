#!/usr/bin/env python3
"""Measures the prepared loop beside the hand-written loop and the Python peer, and prints a Markdown report.

    scripts/bench                                    # builds, then runs this
    benchmarks/run.py --output benchmarks/results/cpu-2026-01-31.md

Every round runs each contestant once, one after the other; a ratio is formed inside a round, and the report shows the
median over the rounds. The peer needs a Python with torch 2.11.0 and accelerate 1.15.0: --peer-python, or
ACCELERATE_PEER_PYTHON. Needs nothing but the standard library itself.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS, PLAIN, FUSED, STOCK = "prepared", "plain", "peer, fused AdamW", "peer, default AdamW"
# A run must not depend on what the caller's shell sets for the library or for OpenMP.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "OMP_", "MKL_", "LD_"))}


def note(text):
    print(text, file=sys.stderr, flush=True)


def output_of(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"run.py: {shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


class Bench:
    def __init__(self, arguments):
        self.build = arguments.build
        self.flags = ["--batch-size", arguments.batch_size, "--steps", arguments.steps]
        self.commands = {OURS: [self.program("train")], PLAIN: [self.program("train"), "--plain"]}
        if arguments.peer_python:
            peer = [arguments.peer_python, ROOT / "benchmarks/peer/train.py"]
            self.commands |= {FUSED: peer, STOCK: peer + ["--no-fused"]}

    def program(self, name):
        path = self.build / "benchmarks" / name
        if not path.exists():
            sys.exit(f"run.py: {path} does not exist: build the benchmarks (scripts/bench does), or pass --build.")
        return path

    def measure(self, who, task, *more, **environment):
        command = [*self.commands[who], "--task", task, *more, "--started-at", time.time_ns()]
        return json.loads(output_of([str(part) for part in command], env={**ENVIRONMENT, **environment}))


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def median_of(rounds, who, key):
    return statistics.median(one[who][key] for one in rounds)


def ratio(rounds, who, to):
    return statistics.median(one[who]["ms"] / one[to]["ms"] for one in rounds)


def steps_report(bench, arguments):
    """Milliseconds a step, the ratios, and the measured rounds for the other reports."""
    measured, rows = {}, []
    names = list(bench.commands)
    for task in arguments.tasks:
        rounds = []
        for index in range(arguments.rounds):
            note(f"{task}: round {index + 1} of {arguments.rounds}")
            order = names[index % len(names) :] + names[: index % len(names)]
            rounds.append({who: bench.measure(who, task, *bench.flags) for who in order})
        measured[task] = rounds
        row = [f"{task} ({arguments.batch_size})"]
        row += [f"{median_of(rounds, who, 'ms'):.3f}" for who in names]
        row += [f"{ratio(rounds, OURS, who):.2f}" for who in names if who != OURS]
        rows.append(row)
    header = ["ms a step"] + names + [f"prepared / {who}" for who in names if who != OURS]
    return "## Steps\n\n" + table(header, rows), measured


def same_numbers_report(bench, arguments):
    rows = []
    for task in arguments.tasks:
        note(f"{task}: losses")
        for who in bench.commands:
            run = bench.measure(who, task, "--no-shuffle", "--steps", 120, "--warmup", 30)
            rows.append([task, who, f"{run['loss_first']:.8f}", f"{run['loss_last']:.8f}"])
    text = "## The same numbers\n\nBatches in the order of the data (`--no-shuffle`), one seed, 150 steps.\n\n"
    return text + table(["task", "loop", "first loss", "last loss"], rows)


def start_report(bench, arguments, measured):
    runs = [one for rounds in measured.values() for one in rounds]
    rows = [
        [who, f"{median_of(runs, who, 'first_step_s'):.3f}", f"{median_of(runs, who, 'rss_mb'):.0f}"]
        for who in bench.commands
    ]
    cuda = cuda_libraries(arguments.peer_python)
    if cuda:
        note("start with the CUDA libraries")
        preload = {"LD_PRELOAD": str(cuda / "libtorch_cuda.so"), "LD_LIBRARY_PATH": str(cuda)}
        loaded = [bench.measure(OURS, arguments.tasks[0], "--steps", 60, **preload) for _ in range(arguments.rounds)]
        rows.insert(
            1,
            [
                "prepared, CUDA libraries preloaded",
                f"{statistics.median(one['first_step_s'] for one in loaded):.3f}",
                f"{statistics.median(one['rss_mb'] for one in loaded):.0f}",
            ],
        )
    head = "## From exec to the end of the first step; highest resident memory\n\n"
    return head + table(["loop", "s", "MB"], rows)


def cuda_libraries(python):
    if not python:
        return None
    where = output_of([python, "-c", "import torch; print(torch.__file__)"], env=ENVIRONMENT).strip()
    folder = pathlib.Path(where).parent / "lib"
    return folder if (folder / "libtorch_cuda.so").exists() else None


def micro_report(bench):
    note("micro-benchmarks")
    flags = ["--benchmark_format=json", "--benchmark_repetitions=5", "--benchmark_report_aggregates_only=true"]
    runs = json.loads(output_of([bench.program("micro"), *flags], env=ENVIRONMENT))["benchmarks"]
    rows = []
    for run in runs:
        if run["aggregate_name"] != "median":
            continue
        rate = f"{run['items_per_second']:,.0f}" if "items_per_second" in run else ""
        rows.append([run["run_name"], f"{run['real_time']:.4g} {run['time_unit']}", rate])
    return "## Parts\n\n" + table(["benchmark", "median of 5", "items a second"], rows)


def compile_report(bench):
    """What `#include "accelerate/accelerate.h"` costs a user's source."""
    compiler = shutil.which("g++")
    database = bench.build / "compile_commands.json"
    if not compiler or not database.exists():
        return "## A user's source\n\nNot measured: needs g++ and the build's compile_commands.json.\n"
    note("compiling a user's source")
    entries = json.loads(database.read_text())
    line = next(e for e in entries if e["file"].endswith("accelerate/accelerator.cpp"))["command"]
    flags, words = [f"-I{ROOT}"], iter(shlex.split(line))
    for word in words:
        if word == "-isystem":
            flags += [word, next(words)]
        elif word.startswith("-D"):
            flags.append(word)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "user.cpp"
        source.write_text('#include "accelerate/accelerate.h"\nint main() { accelerate::Accelerator accelerator; }\n')
        command = [compiler, "-std=c++20", "-O2", *flags]
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            output_of([*command, "-c", source, "-o", pathlib.Path(folder) / "user.o"])
            seconds.append(time.perf_counter() - start)
        lines = output_of([*command, "-E", "-P", source]).count("\n")
    version = output_of([compiler, "-dumpfullversion"]).strip()
    rows = [[f"g++ {version} -O2 -c", f"{statistics.median(seconds):.2f} s"], ["g++ -E -P", f"{lines:,} lines"]]
    return '## A user\'s source: `#include "accelerate/accelerate.h"` and nothing else\n\n' + table(["", "median of 5"], rows)


def machine(bench, arguments, load_before, program="benchmarks/run.py"):
    info = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: (re.search(rf"^{name}\s*: (.*)$", info, re.M) or ["", "unknown"])[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cache = (bench.build / "CMakeCache.txt").read_text()
    entry = lambda name: (re.search(rf"^{name}:\w+=(.*)$", cache, re.M) or ["", ""])[1]
    line = json.loads((bench.build / "compile_commands.json").read_text())[0]["command"]
    program_of = next(word for word in shlex.split(line) if re.search(r"(clang|g)\+\+[-\d.]*$", word))
    compiler = output_of([program_of, "--version"]).splitlines()[0]
    simd = [flag for flag in ("avx2", "avx512f", "amx_tile") if re.search(rf"\b{flag}\b", info)]
    versions = "peer: none (no --peer-python, no ACCELERATE_PEER_PYTHON)"
    if arguments.peer_python:
        ask = "import torch, accelerate, platform as p; print(torch.__version__, accelerate.__version__, p.python_version())"
        torch, peer, python = output_of([arguments.peer_python, "-c", ask], env=ENVIRONMENT).split()
        versions = f"peer: Python {python}, torch {torch}, Accelerate {peer}"
    load = [load_before, os.getloadavg()[0]]
    command = [program] + [f"--rounds {arguments.rounds}", f"--steps {arguments.steps}"]
    lines = [
        f"CPU: {field('model name')} (family {field('cpu family')}, model {field('model')}; {', '.join(simd)}), "
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}; load before and after: "
        f"{load[0]:.2f}, {load[1]:.2f}",
        f"ours: commit {commit()}, {compiler}, {entry('CMAKE_BUILD_TYPE')}, LibTorch 2.11.0 (libtorch_cpu and libc10 only)",
        versions,
        f"command: `{' '.join(command)} --batch-size {arguments.batch_size} --tasks {' '.join(arguments.tasks)}`, "
        "one thread each; median of 6 windows a run, medians over the rounds",
    ]
    return "".join(f"- {line}\n" for line in lines)


def commit():
    return output_of(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).strip() if (ROOT / ".git").exists() else "unknown"


def flags(description, tasks, rounds):
    """The flags of a report; more can be added."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help="build folder")
    parser.add_argument("--peer-python", default=os.environ.get("ACCELERATE_PEER_PYTHON"), help="Python of the peer")
    parser.add_argument("--tasks", nargs="+", default=tasks, choices=["mlp", "conv", "digits"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output", type=pathlib.Path, help="write the report to this file too")
    return parser


def publish(report, output):
    print(report)
    if output:
        output.write_text(report)
        note(f"written: {output}")


def main():
    arguments = flags(__doc__, ["mlp", "conv", "digits"], rounds=5).parse_args()
    if not arguments.peer_python:
        note("No peer: pass --peer-python or set ACCELERATE_PEER_PYTHON to a Python with torch and accelerate.")
    bench = Bench(arguments)
    load = os.getloadavg()[0]
    steps, measured = steps_report(bench, arguments)
    parts = [
        steps,
        start_report(bench, arguments, measured),
        same_numbers_report(bench, arguments),
        micro_report(bench),
        compile_report(bench),
    ]
    title = f"# One process on a CPU, {datetime.date.today().isoformat()}\n"
    publish("\n".join([title, machine(bench, arguments, load), *parts]), arguments.output)


if __name__ == "__main__":
    main()
