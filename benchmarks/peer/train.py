#!/usr/bin/env python3
"""The tasks of benchmarks/train through Hugging Face Accelerate: the same nets, data, loop, flags and JSON line.

Needs torch 2.11.0 and accelerate 1.15.0 (CPU is enough).
"""

import time

BEGAN = time.time()

import argparse
import json
import pathlib
import statistics
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin
from tasks import TASKS
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

WINDOWS, HOST_STEPS, CAPTURED_STEPS, MAX_NORM = 6, 24, 6, 1.0
# Values of at::SDPBackend, as benchmarks/train orders them.
ATTENTION = {"cudnn": [3, 1, 2, 0], "flash": [1, 2, 0, 3]}
MODES = {
    "eager": None,
    "inductor": {"backend": "inductor"},
    "reduce-overhead": {"backend": "inductor", "mode": "reduce-overhead"},
}


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
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--mode", default="eager", choices=list(MODES), help="how Accelerate compiles the model")
    parser.add_argument("--transformers", action="store_true", help="the net of that package, in the same shape")
    parser.add_argument("--batch-size", type=int, help="of each process; default: the task's")
    parser.add_argument("--length", type=int, help="tokens in a sample; default: the task's")
    parser.add_argument("--tiny", action="store_true", help="few narrow layers, for tests on a CPU")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--dropout", type=float, help="of bert, instead of 0.1")
    parser.add_argument("--attention", default="cudnn", choices=["cudnn", "flash", "default"])
    parser.add_argument("--steps", type=int, default=600, help="measured steps, in 6 windows")
    parser.add_argument("--warmup", type=int, default=100, help="steps before")
    parser.add_argument("--losses", type=int, default=1, help="so many of the first losses are printed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--started-at", type=int, help="system clock at exec, in ns, for first_step_s")
    parser.add_argument("--no-shuffle", dest="shuffle", action="store_false")
    parser.add_argument("--no-fused", dest="fused", action="store_false", help="torch.optim.AdamW as it is by default")
    settings = parser.parse_args()
    task = TASKS[settings.task]
    batch_size, length = task.tiny if settings.tiny else task.full
    settings.batch_size = settings.batch_size or batch_size
    settings.length = settings.length or length
    return settings, task


class Meter:
    """As benchmarks/train/meter.h: `warmup` steps, six windows, then steps that each start on an idle device."""

    def __init__(self, settings):
        self.settings, self.steps = settings, 0
        self.losses, self.windows, self.host = [], [], []
        self.alone_since = None

    def age(self):
        started_at = self.settings.started_at
        return time.time() - (started_at / 1e9 if started_at else BEGAN)

    def step(self, loss):
        """True: stop."""
        came = time.perf_counter()
        self.steps += 1
        if self.alone_since is not None:
            self.host.append(1e3 * (came - self.alone_since))
            finish()
            self.alone_since = time.perf_counter()
            return len(self.host) == HOST_STEPS
        if self.steps <= self.settings.losses:
            self.losses.append(loss.item())
        if self.steps == 1:
            finish()
            self.first_step = self.age()
        if self.steps == CAPTURED_STEPS:
            finish()
            self.captured_step = self.age()
        measured, window = self.steps - self.settings.warmup, self.settings.steps // WINDOWS
        if measured == 0:
            finish()
            self.start = time.perf_counter()
        elif measured > 0 and measured % window == 0:
            finish()
            end = time.perf_counter()
            self.windows.append(1e3 * (end - self.start) / window)
            self.start = end
            if len(self.windows) == WINDOWS:
                self.loss_last = loss.item()
                self.alone_since = time.perf_counter()
        return False


def finish():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def published(task):
    import published as module  # takes seconds

    if task not in module.NETS:
        sys.exit(f"train.py: transformers has no net for {task}; it has {', '.join(module.NETS)}")
    return module.NETS[task]


def accelerator_of(settings):
    plugin = MODES[settings.mode]
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=settings.mixed_precision,
        dynamo_plugin=TorchDynamoPlugin(**plugin) if plugin else None,
    )


def main():
    settings, task = flags()
    torch.set_num_threads(settings.threads)
    if settings.attention in ATTENTION:
        torch._C._set_sdp_priority_order(ATTENTION[settings.attention])
    accelerator = accelerator_of(settings)
    torch.manual_seed(settings.seed)
    inputs, labels = task.samples(settings)  # data first, then the net: the order in which benchmarks/train draws
    net = (published(settings.task) if settings.transformers else task.net)(settings, accelerator.device)
    data = DataLoader(
        TensorDataset(inputs, labels),
        batch_size=settings.batch_size,
        shuffle=settings.shuffle,
        drop_last=True,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    adamw = torch.optim.AdamW(net.parameters(), lr=task.learning_rate, fused=settings.fused)
    constant = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1.0)
    model, optimizer, loader, scheduler = accelerator.prepare(net, adamw, data, constant)

    meter = Meter(settings)
    for x, y in batches(loader):
        with accelerator.accumulate(model):
            loss = model(x, y) if task.computes_loss else F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if meter.step(loss):
            break

    world, is_main_process = accelerator.num_processes, accelerator.is_main_process
    accelerator.end_training()
    if not is_main_process:
        return
    median, on_gpu = statistics.median(meter.windows), torch.cuda.is_available()
    print(
        json.dumps(
            {
                "task": settings.task,
                "world": world,
                "batch_size": settings.batch_size,
                "length": settings.length,
                "precision": settings.mixed_precision,
                "ms": round(median, 4),
                "min_ms": round(min(meter.windows), 4),
                "host_ms": round(statistics.median(meter.host), 4),
                "samples_per_s": round(1e3 * world * settings.batch_size / median),
                "loss_first": meter.losses[0],
                "loss_last": meter.loss_last,
                "losses": meter.losses,
                "first_step_s": round(meter.first_step, 3),
                "captured_step_s": round(meter.captured_step, 3),
                "rss_mb": round(peak_rss_mb()),
                "peak_gpu_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_gpu else 0,
                "reserved_gpu_gb": round(torch.cuda.max_memory_reserved() / 1e9, 3) if on_gpu else 0,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
