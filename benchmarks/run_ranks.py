#!/usr/bin/env python3
"""Measures training in several processes of this host beside the hand-written loop and the Python peer.

    benchmarks/run_ranks.py --peer-python <python> --output benchmarks/results/cpu-ranks-2026-01-31.md

As run.py: every round runs each contestant once, ratios are formed inside a round, medians over the rounds.
"""

import datetime
import json
import os
import statistics
import time

from run import ENVIRONMENT, ROOT, flags, machine, note, output_of, publish, table

ONE = "one process"
OURS, GLOO, PLAIN = "prepared", "prepared, Gloo", "plain Reducer loop, Gloo"
FUSED, STOCK = "peer, fused AdamW", "peer, default AdamW"


class Bench:
    def __init__(self, arguments):
        self.build, self.processes = arguments.build, arguments.processes
        self.flags = ["--batch-size", arguments.batch_size, "--steps", arguments.steps]
        train = self.build / "benchmarks/train"
        ours = [self.build / "bin/accelerate-cpp", "launch", "--cpu", "--num-processes", self.processes]
        self.launch = [*ours, "--num-cpu-threads-per-process", 1]
        self.commands = {
            ONE: [train],
            OURS: [*self.launch, train],
            GLOO: [*self.launch, train, "--backend", "gloo"],
            PLAIN: [*self.launch, train, "--plain"],
        }
        self.peer_launch = []
        if arguments.peer_python:
            run = [arguments.peer_python, "-m", "torch.distributed.run", "--nproc-per-node", self.processes]
            self.peer_launch = [*run, "--master-port", 29511]
            peer = [*self.peer_launch, ROOT / "benchmarks/peer/train.py"]
            self.commands |= {FUSED: peer, STOCK: peer + ["--no-fused"]}

    def json_of(self, command):
        words = [str(part) for part in command]
        lines = output_of(words, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}).splitlines()
        return json.loads(next(line for line in lines if line.startswith("{")))

    def measure(self, who, task, *more):
        return self.json_of([*self.commands[who], "--task", task, *more, "--started-at", time.time_ns()])


def middle(rounds, who, key):
    return statistics.median(one[who][key] for one in rounds)


def ratio(rounds, who, to):
    return statistics.median(one[who]["ms"] / one[to]["ms"] for one in rounds)


def steps_report(bench, arguments):
    names, measured, steps, ratios = list(bench.commands), {}, [], []
    for task in arguments.tasks:
        rounds = []
        for index in range(arguments.rounds):
            note(f"{task}: round {index + 1} of {arguments.rounds}")
            order = names[index % len(names) :] + names[: index % len(names)]
            rounds.append({who: bench.measure(who, task, *bench.flags) for who in order})
        measured[task] = rounds
        steps.append([f"{task} ({arguments.batch_size})"] + [f"{middle(rounds, who, 'ms'):.3f}" for who in names])
        pairs = [(OURS, ONE), (GLOO, PLAIN)] + [(OURS, who) for who in (FUSED, STOCK) if who in names]
        gain = statistics.median(one[OURS]["samples_per_s"] / one[ONE]["samples_per_s"] for one in rounds)
        ratios.append([task] + [f"{ratio(rounds, *pair):.2f}" for pair in pairs] + [f"{gain:.2f}"])
    header = ["ratio"] + [f"{who} / {to}" for who, to in pairs] + ["samples a second, prepared / one process"]
    text = "## Milliseconds a step\n\nThe batch is each process's own.\n\n"
    return text + table(["task (batch)"] + names, steps) + "\n" + table(header, ratios), measured


def start_report(bench, measured):
    runs = [one for rounds in measured.values() for one in rounds]
    rows = [[who, f"{middle(runs, who, 'first_step_s'):.3f}"] for who in bench.commands]
    return "## From the launch to the end of the first step, s\n\n" + table(["loop", "s"], rows)


def gather_report(bench, arguments):
    contestants = {"prepared": [*bench.launch, bench.build / "benchmarks/gather"]}
    contestants["prepared, Gloo"] = contestants["prepared"] + ["gloo"]
    if bench.peer_launch:
        contestants["peer"] = [*bench.peer_launch, ROOT / "benchmarks/peer/gather.py"]
    rounds = []
    for index in range(arguments.rounds):
        note(f"gather: round {index + 1} of {arguments.rounds}")
        rounds.append({who: bench.json_of(command) for who, command in contestants.items()})
    rows = []
    for who in contestants:
        nested, flat = middle(rounds, who, "nested_us"), middle(rounds, who, "flat_us")
        to_flat = statistics.median(one[who]["nested_us"] / one[who]["flat_us"] for one in rounds)
        row = [who, f"{nested:.0f}", f"{flat:.0f}", f"{to_flat:.2f}"]
        if bench.peer_launch:
            row.append(f"{statistics.median(one[who]['nested_us'] / one['peer']['nested_us'] for one in rounds):.2f}")
        rows.append(row)
    header = ["us a call", "20 tensors", "one of as many bytes", "20 / one"] + (["20 / peer's 20"] if bench.peer_launch else [])
    nested = "## gather of a nested batch of 20 tensors (160 KiB)\n\n" + table(header, rows)
    return nested + "\n" + verbs_report(contestants, rounds)


def verbs_report(contestants, rounds):
    rows = []
    for size in ("1kB", "10MB"):
        for verb in ("gather", "broadcast", "pad", "object"):
            key = f"{verb}_{size}_us"
            row = [verb, size] + [f"{middle(rounds, who, key):,.0f}" for who in contestants]
            if "peer" in contestants:
                row.append(f"{statistics.median(one['prepared'][key] / one['peer'][key] for one in rounds):.2f}")
            rows.append(row)
    header = ["us a call", "bytes", *contestants] + (["prepared / peer"] if "peer" in contestants else [])
    return "## One message\n\n" + table(header, rows)


def all_reduce_report(bench, arguments):
    note("all-reduce")
    command = [str(bench.build / "benchmarks/all_reduce"), "--ranks", str(bench.processes)]
    rounds = []
    for _ in range(arguments.rounds):
        lines = [json.loads(line) for line in output_of(command, env=ENVIRONMENT).splitlines() if line.startswith("{")]
        rounds.append({(line["operation"], line["bytes"]): line for line in lines})
    rows = []
    for key in rounds[0]:
        shm = statistics.median(one[key]["shm_us"] for one in rounds)
        gloo = statistics.median(one[key]["gloo_us"] for one in rounds)
        share = statistics.median(one[key]["shm_us"] / one[key]["gloo_us"] for one in rounds)
        rows.append([key[0], f"{key[1]:,}", f"{shm:,.1f}", f"{gloo:,.1f}", f"{share:.2f}"])
    return "## Collectives alone, us a call\n\n" + table(["operation", "bytes", "shm", "gloo", "shm / gloo"], rows)


def main():
    parser = flags(__doc__, ["mlp", "conv"], rounds=3)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    load = os.getloadavg()[0]
    steps, measured = steps_report(bench, arguments)
    parts = [steps, start_report(bench, measured), gather_report(bench, arguments), all_reduce_report(bench, arguments)]
    title = f"# {arguments.processes} processes on a CPU, {datetime.date.today().isoformat()}\n"
    publish("\n".join([title, machine(bench, arguments, load, "benchmarks/run_ranks.py"), *parts]), arguments.output)


if __name__ == "__main__":
    main()
