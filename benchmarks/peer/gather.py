#!/usr/bin/env python3
"""benchmarks/gather.cpp through Hugging Face Accelerate, under torchrun. Needs torch 2.11.0 and accelerate 1.15.0."""

import json
import statistics
import time

import torch
from accelerate import Accelerator

WINDOWS, CALLS = 15, 40


def median_us(call):
    for _ in range(CALLS):
        call()
    windows = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        windows.append(1e6 * (time.perf_counter() - start) / CALLS)
    return statistics.median(windows)


def main():
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    nested = {name: [torch.randn(64, 32) for _ in range(5)] for name in ("inputs", "labels", "masks", "weights")}
    flat = torch.randn(64, 640)
    nested_us, flat_us = median_us(lambda: accelerator.gather(nested)), median_us(lambda: accelerator.gather(flat))
    if accelerator.is_main_process:
        result = {"world": accelerator.num_processes, "tensors": 20, "bytes": flat.nbytes}
        print(json.dumps(result | {"nested_us": round(nested_us, 2), "flat_us": round(flat_us, 2)}), flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
