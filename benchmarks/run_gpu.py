#!/usr/bin/env python3
"""Measures the tasks on a GPU machine beside hand-written loops and the Python peer, and makes a table of it.

    scripts/bench gpu --name h100                                  # builds, then runs this
    benchmarks/run_gpu.py --programs <packed folder> --minutes 8   # programs of tests/gpu/visit.sh pack, no compiler
    benchmarks/run_gpu.py --name h100 --render                     # the table again, from the results alone

Every run is one line in benchmarks/results/gpu-<name>.jsonl; the table in gpu-<name>.md is made of the lines. Rows can be
measured one by one (--only): each row of the table comes from the last invocation that measured it, so that all its
numbers are from one machine. In a round each contestant runs once, and the first rounds of all rows come first.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

from gpu.rows import CONTESTANTS, ROWS
from gpu.table import report

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
# A run must not depend on what the caller's shell sets for the library or for OpenMP.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "OMP_", "MKL_"))}
LIBRARIES = """import glob, os, torch
site = os.path.dirname(os.path.dirname(torch.__file__))
print(":".join([site + "/torch/lib"] + sorted(glob.glob(site + "/nvidia/*/lib"))))"""
VERSIONS = """import importlib.metadata as m, platform
def of(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return ""
print(of("torch"), of("accelerate") or "-", platform.python_version())"""


def note(text):
    print(text, file=sys.stderr, flush=True)


def answer(command):
    """What a program prints, or nothing where there is no such program or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


class Machine:
    """Programs, the peer's Python and the GPUs of this machine."""

    def __init__(self, arguments):
        self.programs = arguments.programs
        self.train = self.program("train", "benchmarks/train")
        self.launcher = self.program("accelerate-cpp", "bin/accelerate-cpp")
        self.python = arguments.python
        self.torch, self.accelerate, self.python_version = (answer([self.python, "-c", VERSIONS]).split() + ["", "-", ""])[:3]
        self.gpus = [line for line in answer(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines() if line]
        libraries = answer([self.python, "-c", LIBRARIES]) if self.torch else ""
        path = [part for part in (libraries, os.environ.get("LD_LIBRARY_PATH", "")) if part]
        self.ours = ENVIRONMENT | ({"LD_LIBRARY_PATH": ":".join(path)} if path else {})

    def program(self, packed, built):
        """Of a packed folder or a build tree."""
        return next((path for path in (self.programs / packed, self.programs / built) if path.is_file()), None)

    def described(self, session, arguments):
        info = pathlib.Path("/proc/cpuinfo").read_text()
        cpu = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "unknown")
        driver = answer(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).splitlines()
        written = self.programs / "commit"
        commit = arguments.commit or (written.read_text().strip() if written.exists() else "")
        return {
            "session": session,
            "date": datetime.date.today().isoformat(),
            "gpus": self.gpus,
            "driver": driver[0] if driver else "",
            "cpu": f"{cpu}, {os.cpu_count()} cores",
            "torch": self.torch,
            "accelerate": self.accelerate,
            "python": self.python_version,
            "commit": commit or answer(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown",
            "command": shlex.join(["benchmarks/run_gpu.py", *sys.argv[1:]]),
        }

    def lacks(self, row, who):
        """Why this cannot run here; nothing if it can."""
        if len(self.gpus) < row.processes:
            return f"needs {row.processes} GPUs: {len(self.gpus)} visible"
        if who.startswith("HF"):
            return "" if self.accelerate != "-" else f"{self.python} has no accelerate"
        if self.train is None:
            return f"no program train in {self.programs}"
        return "" if row.processes == 1 or self.launcher else f"no program accelerate-cpp in {self.programs}"

    def command(self, row, who, flags):
        contestant = CONTESTANTS[who]
        precision = contestant.precision or row.precision
        words = [*row.flags, "--mixed-precision", precision, *contestant.flags, *flags]
        if who.startswith("HF"):
            run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(row.processes)]
            start = [self.python] + (run if row.processes > 1 else [])
            return [*start, str(ROOT / "benchmarks/peer/train.py"), *words]
        launched = row.processes > 1 and not contestant.alone
        start = [str(self.launcher), "launch", "--num-processes", str(row.processes)] if launched else []
        return [*start, str(self.train), *words]


def steps_of(row, who, arguments):
    steps, warmup = row.peer_steps if who.startswith("HF") else row.steps
    if arguments.quick:
        steps = max(24, steps // 4)
    return steps, max(warmup, arguments.losses)


def finish(words, environment, limit):
    """The result of one program and what it said beside it, or why there is none."""
    # A session of its own: what a launcher started ends with it.
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(words, env=environment, **options) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"not done after {limit:.0f} s"
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if process.returncode == 0 and line is not None:
        return json.loads(line), errors
    said = [text for text in errors.strip().splitlines() if text.strip()]
    note("\n".join(said[-15:]))
    return f"ended with {process.returncode}: {said[-1].strip()[:300] if said else 'said nothing'}"


def run(machine, row, who, arguments, limit):
    """One record without its place: the result, or why there is none."""
    steps, warmup = steps_of(row, who, arguments)
    flags = ["--steps", steps, "--warmup", warmup, "--losses", arguments.losses, "--no-shuffle"]
    command = machine.command(row, who, [str(flag) for flag in flags])
    words = [*command, "--started-at", str(time.time_ns())]
    places = [ENVIRONMENT if who.startswith("HF") else machine.ours]
    if CONTESTANTS[who].alone:
        places = [places[0] | {"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in range(row.processes)]
    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        runs = list(pool.map(lambda environment: finish(words, environment, limit), places))
    why = next((done for done in runs if isinstance(done, str)), None)
    if why:
        return {"command": shlex.join(command), "why": why}
    slowest, errors = max(runs, key=lambda done: done[0]["ms"])
    if len(runs) > 1:
        slowest["each_ms"] = [result["ms"] for result, _ in runs]
    # What the library says of a graph that it does not capture.
    warned = [] if who.startswith("HF") else [text for text in errors.splitlines() if "graph" in text.lower()]
    record = {"command": shlex.join(command), "result": slowest}
    return record | ({"said": warned[:5]} if warned else {})


def measure(machine, arguments, session, write):
    end = time.monotonic() + 60 * arguments.minutes
    seconds, failed = {}, set()
    chosen = {name: ROWS[name] for name in ROWS if name in arguments.only}
    for index in range(max(row.rounds for row in chosen.values())):
        for name, row in chosen.items():
            if index >= (1 if arguments.quick else row.rounds):
                continue
            who_runs = [who for who in row.contestants if who in arguments.contestants]
            for who in who_runs[index % len(who_runs) :] + who_runs[: index % len(who_runs)] if who_runs else []:
                if (name, who) in failed:
                    continue
                place = {"session": session, "row": name, "contestant": who, "round": index}
                why, left = machine.lacks(row, who), end - time.monotonic()
                if not why and left < seconds.get((name, who), CONTESTANTS[who].seconds):
                    why = f"left out: {arguments.minutes:g} minutes were over"
                if why:
                    note(f"{row.title}: {who}: {why}")
                    failed.add((name, who))
                    if index == 0:
                        write(place | {"why": why})
                    continue
                began = time.monotonic()
                record = run(machine, row, who, arguments, min(arguments.timeout, left))
                seconds[name, who] = time.monotonic() - began
                said = record.get("why") or "{ms:.3f} ms".format_map(record["result"])
                note(f"{row.title}: {who}: {said} ({seconds[name, who]:.0f} s)")
                if "why" in record:
                    failed.add((name, who))
                write(place | record | {"seconds": round(seconds[name, who], 1)})


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build", help="a build tree or a packed folder")
    parser.add_argument("--python", default=os.environ.get("ACCELERATE_PEER_PYTHON") or shutil.which("python3") or sys.executable,
                        help="Python of the peer; its torch brings the libraries of packed programs")
    parser.add_argument("--name", default="here", help="results go to benchmarks/results/gpu-<name>.jsonl and .md")
    parser.add_argument("--results", type=pathlib.Path, help="the lines, instead")
    parser.add_argument("--output", type=pathlib.Path, help="the table, instead")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW", help=" ".join(ROWS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS), metavar="WHO",
                        help="; ".join(CONTESTANTS))
    parser.add_argument("--minutes", type=float, default=60, help="no program is started that would not end in time")
    parser.add_argument("--timeout", type=float, default=200, help="seconds of one program")
    parser.add_argument("--losses", type=int, default=10, help="first losses that are read and compared")
    parser.add_argument("--quick", action="store_true", help="one round of few steps")
    parser.add_argument("--commit", help="of the programs, where this is no checkout")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    return parser.parse_args()


def main():
    arguments = flags()
    lines = arguments.results or RESULTS / f"gpu-{arguments.name}.jsonl"
    if not arguments.render:
        machine = Machine(arguments)
        if not machine.gpus:
            sys.exit("run_gpu.py: no NVIDIA GPU is visible here (nvidia-smi lists none).")
        session = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines.parent.mkdir(parents=True, exist_ok=True)
        with lines.open("a") as file:

            def write(record):
                file.write(json.dumps(record) + "\n")
                file.flush()

            write(machine.described(session, arguments))
            measure(machine, arguments, session, write)
    records = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
    table = report(records)
    print(table)
    output = arguments.output or lines.with_suffix(".md")
    output.write_text(table)
    note(f"written: {output}")


if __name__ == "__main__":
    main()
