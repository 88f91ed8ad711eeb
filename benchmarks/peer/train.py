#!/usr/bin/env python3
"""The tasks of benchmarks/train through Hugging Face Accelerate: the same nets, data, loop, flags and JSON line.

Needs torch 2.11.0 and accelerate 1.15.0 (CPU is enough).
"""

import time

BEGAN = time.time()

import argparse
import gzip
import json
import pathlib
import statistics

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WINDOWS, LEARNING_RATE, MAX_NORM = 6, 1e-3, 1.0
DIGITS = pathlib.Path(__file__).resolve().parents[2] / "data" / "digits.csv.gz"


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(784, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.classify = nn.Linear(512, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.second(torch.relu(self.first(x)))), 2).flatten(1)
        return self.classify(x)


def noise(batch_size, *shape):
    inputs = torch.randn(64 * batch_size, *shape)
    return inputs, torch.randint(0, 10, (64 * batch_size,))


def digits():
    with gzip.open(DIGITS, "rt") as lines:
        rows = torch.tensor([[int(value) for value in line.split(",")] for line in lines])
    train = torch.arange(len(rows)) % 5 != 0
    return rows[train, :64].float().div(16).view(-1, 1, 8, 8), rows[train, 64]


def task(name, batch_size):
    """Data first, then the net: the order in which benchmarks/train draws them."""
    if name == "mlp":
        return noise(batch_size, 784), Mlp()
    if name == "conv":
        return noise(batch_size, 1, 8, 8), Conv()
    return digits(), Conv()


def batches(loader):
    while True:
        yield from loader


def peak_rss_mb():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=["mlp", "conv", "digits"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600, help="measured steps, in 6 windows")
    parser.add_argument("--warmup", type=int, default=100, help="steps before")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--started-at", type=int, help="system clock at exec, in ns, for first_step_s")
    parser.add_argument("--no-shuffle", dest="shuffle", action="store_false")
    parser.add_argument("--no-fused", dest="fused", action="store_false", help="torch.optim.AdamW as it is by default")
    return parser.parse_args()


def main():
    arguments = flags()
    torch.set_num_threads(arguments.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(arguments.seed)
    (inputs, labels), net = task(arguments.task, arguments.batch_size)
    data = DataLoader(
        TensorDataset(inputs, labels),
        batch_size=arguments.batch_size,
        shuffle=arguments.shuffle,
        drop_last=True,
        generator=torch.Generator().manual_seed(arguments.seed),
    )
    adamw = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, fused=arguments.fused)
    constant = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1.0)
    model, optimizer, loader, scheduler = accelerator.prepare(net, adamw, data, constant)

    windows, window = [], max(1, arguments.steps // WINDOWS)
    loss_first = first_step = 0.0
    for step, (x, y) in enumerate(batches(loader), start=1):
        with accelerator.accumulate(model):
            loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if step == 1:
            loss_first = loss.item()
            first_step = time.time() - (arguments.started_at / 1e9 if arguments.started_at else BEGAN)
        measured = step - arguments.warmup
        if measured == 0:
            start = time.perf_counter()
        elif measured > 0 and measured % window == 0:
            end = time.perf_counter()
            windows.append(1e3 * (end - start) / window)
            start = end
            if len(windows) == WINDOWS:
                break

    world, is_main_process = accelerator.num_processes, accelerator.is_main_process
    accelerator.end_training()
    if not is_main_process:
        return
    median = statistics.median(windows)
    print(
        json.dumps(
            {
                "task": arguments.task,
                "world": world,
                "batch_size": arguments.batch_size,
                "ms": round(median, 4),
                "min_ms": round(min(windows), 4),
                "samples_per_s": round(1e3 * world * arguments.batch_size / median),
                "loss_first": loss_first,
                "loss_last": loss.item(),
                "first_step_s": round(first_step, 3),
                "rss_mb": round(peak_rss_mb()),
                "peak_gpu_gb": 0,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
