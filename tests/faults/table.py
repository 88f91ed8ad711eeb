#!/usr/bin/env python3
"""What every rank and the launcher say for each fault, as a Markdown table on standard output.

    tests/faults/table.py <build folder> [<fault>...]

Runs faults_rank twice for every fault and transport: with torchrun's variables, and through accelerate-cpp launch.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

LIMIT_S = 40

# name, ranks, faulty rank, in words
FAULTS = [
    ("killed", 3, 1, "rank 1 of 3 gets SIGKILL"),
    ("killed", 3, 0, "rank 0 of 3, which serves the store, gets SIGKILL"),
    ("stopped", 2, 1, "rank 1 gets SIGSTOP"),
    ("stopped", 2, 0, "rank 0, which serves the store, gets SIGSTOP"),
    ("exception", 2, 1, "rank 1 throws between two steps"),
    ("in_backward", 2, 1, "rank 1 throws in a hook of autograd"),
    ("exit", 2, 1, "rank 1 calls exit(0) without end_training"),
    ("ended_early", 2, 1, "rank 1 calls end_training and exits while others train"),
    ("skipped", 3, 1, "rank 1 of 3 skips one gather"),
    ("other_shape_gather", 2, 1, "rank 1 gathers another shape"),
    ("other_shape_reduce", 2, 1, "rank 1 reduces another shape"),
    ("other_dtype_gather", 2, 1, "rank 1 gathers another dtype"),
    ("other_dtype_reduce", 2, 1, "rank 1 reduces another dtype"),
    ("other_parameters", 2, 1, "the model of rank 1 has two more parameters"),
    ("other_accumulation", 2, 1, "rank 1 accumulates over 4 batches, rank 0 over 2"),
    ("slow", 2, 1, "rank 1 is 2.5 s late, within the timeout"),
    ("too_slow", 2, 1, "rank 1 is 5 s late, the timeout is 1 s"),
    ("small_data", 3, 1, "one sample for 3 ranks"),
    ("unknown_backend", 2, 1, "a backend that does not exist"),
    ("backend_not_built", 2, 1, "NCCL in a build without CUDA"),
    ("never_comes", 2, 1, "rank 1 never comes"),
    ("wrong_size", 2, 1, "WORLD_SIZE=3 on rank 1, 2 on rank 0"),
    ("port_taken", 2, 1, "another program listens on MASTER_PORT"),
]
BY_HAND_ONLY = {"wrong_size", "port_taken"}


def start(words, variables):
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def stands_still(process):
    try:
        return pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].startswith("T")
    except OSError:
        return False


def finish(processes):
    """Text, exit code and seconds of each; one that stands still is killed when the others are over."""
    begin, seconds = time.monotonic(), [0.0] * len(processes)
    running = set(range(len(processes)))
    while running:
        for i in sorted(running):
            if processes[i].poll() is not None:
                seconds[i] = time.monotonic() - begin
                running.discard(i)
        if running and (all(stands_still(processes[i]) for i in running) or time.monotonic() - begin > LIMIT_S):
            for i in running:
                os.killpg(processes[i].pid, signal.SIGKILL)
        time.sleep(0.02)
    return [(one.stdout.read(), one.returncode, seconds[i]) for i, one in enumerate(processes)]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def by_hand(program, fault, ranks, faulty, backend):
    taken = None
    port = free_port()
    if fault == "port_taken":
        taken = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        port = taken.getsockname()[1]
    processes = []
    for rank in range(ranks):
        size = 3 if fault == "wrong_size" and rank == faulty else ranks
        processes.append(start([program, fault, str(faulty)], {
            "FAULTS_BACKEND": backend, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}))
    ended = finish(processes)
    if taken:
        taken.close()
    return ended


def cell(ended):
    text, code, seconds = ended
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    return "<br>".join([f"**{how}, {seconds:.1f} s**"] + [line.replace("|", "\\|") for line in text.splitlines()])


def main():
    build = pathlib.Path(sys.argv[1])
    program, launcher = str(build / "tests/faults/faults_rank"), str(build / "bin/accelerate-cpp")
    for fault, ranks, faulty, words in FAULTS:
        if sys.argv[2:] and fault not in sys.argv[2:]:
            continue
        hand, launched = [], []
        for backend in ("gloo", "shm"):
            hand.append(by_hand(program, fault, ranks, faulty, backend))
            if fault not in BY_HAND_ONLY:
                command = [launcher, "launch", "--num-processes", str(ranks), program, fault, str(faulty)]
                launched.append(finish([start(command, {"FAULTS_BACKEND": backend})])[0])
        print(f"\n### {words[0].upper() + words[1:]} (`{fault}`)\n\n| | Gloo | shared memory |\n| --- | --- | --- |")
        for rank in range(ranks):
            print(f"| rank {rank} | {cell(hand[0][rank])} | {cell(hand[1][rank])} |")
        if launched:
            print(f"| launched | {cell(launched[0])} | {cell(launched[1])} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
