#!/usr/bin/env python3
"""Writes losses.json: the first losses of every task in its tiny form through Accelerate on a CPU.

    <python with torch 2.11.0 and accelerate 1.15.0> tests/benchmarks/generate.py
"""

import json
import pathlib
import subprocess
import sys

from runs import PRECISIONS, TASKS, flags

HERE = pathlib.Path(__file__).resolve().parent
PEER = HERE.parents[1] / "benchmarks/peer/train.py"


def losses(task, precision):
    command = [sys.executable, str(PEER), *flags(task, precision)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])["losses"]


def main():
    found = {task: {precision: losses(task, precision) for precision in PRECISIONS} for task in TASKS}
    (HERE / "losses.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
