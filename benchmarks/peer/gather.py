#!/usr/bin/env python3
"""benchmarks/gather.cpp through Hugging Face Accelerate, under torchrun. Needs torch 2.11.0 and accelerate 1.15.0."""

import json
import statistics
import time

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

WINDOWS = 15
MESSAGES = [("1kB", 1_000, 40), ("10MB", 10_000_000, 3)]


def median_us(call, calls=40):
    for _ in range(calls):
        call()
    windows = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        windows.append(1e6 * (time.perf_counter() - start) / calls)
    return statistics.median(windows)


def verbs(accelerator):
    """In the order of the C++ program: every process has to take part in the same call."""
    result = {}
    for name, size, calls in MESSAGES:
        whole = torch.randn(size // 4)
        ragged = whole if accelerator.is_main_process else whole[: whole.numel() // 2]
        text = ["x" * size]
        for verb, call in {
            "broadcast": lambda: broadcast(whole),
            "gather": lambda: accelerator.gather(whole),
            "object": lambda: gather_object(text),
            "pad": lambda: accelerator.pad_across_processes(ragged),
        }.items():
            result[f"{verb}_{name}_us"] = round(median_us(call, calls), 2)
    return result


def main():
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    nested = {name: [torch.randn(64, 32) for _ in range(5)] for name in ("inputs", "labels", "masks", "weights")}
    flat = torch.randn(64, 640)
    nested_us, flat_us = median_us(lambda: accelerator.gather(nested)), median_us(lambda: accelerator.gather(flat))
    single = verbs(accelerator)
    if accelerator.is_main_process:
        result = {"world": accelerator.num_processes, "tensors": 20, "bytes": flat.nbytes}
        result |= {"nested_us": round(nested_us, 2), "flat_us": round(flat_us, 2)}
        print(json.dumps(result | single), flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
