#!/usr/bin/env python3
"""What the GPU did in the steps of a trace, by kind of work, as a Markdown table.

    build/benchmarks/train --task gpt2 --mixed-precision bf16 --cuda-graph --profile out/trace
    benchmarks/profile_step.py out/trace/profile_0.json
"""

import argparse
import collections
import json
import pathlib
import re

from gpu.table import number, table

# The first that matches the kernel's name.
KINDS = (
    ("attention", r"flash|fmha|attention|cudnn.*sdpa|softmax_(fprop|bprop)"),
    ("matrix products", r"gemm|cutlass|xmma|cublas|nvjet|splitK|s16816|s1688"),
    ("convolutions", r"conv|cudnn|nchw|nhwc|wgrad|dgrad"),
    ("normalisation", r"layer_?norm|LayerNorm|rms_?norm|batch_?norm|GammaBeta"),
    ("loss", r"softmax|nll|cross_entropy|SoftMax|(forward|reduce|backward)_rows"),
    ("optimizer, norm and clip", r"multi_tensor|foreach|FusedAdam|adam|lpnorm|amp_"),
    ("communication", r"nccl"),
    ("embedding", r"embedding|indexSelect|index_|gatherTopK|radix|sort"),
    ("activations", r"gelu|silu|relu|tanh|GeluCUDA|GeluBackward|threshold"),
    ("random numbers and dropout", r"dropout|philox|distribution"),
    ("copies and casts", r"copy_kernel|direct_copy|bfloat16_copy|CatArray|LoadWithCast|float.*copy"),
    ("sums", r"reduce_kernel|Reduce"),
    ("other elementwise", r"elementwise"),
)


def kind_of(event):
    if event["cat"] == "gpu_memcpy":
        name = event["name"].lower()
        return next((words for words in ("HtoD", "DtoH", "DtoD") if words.lower() in name), "copies") + " copies"
    if event["cat"] == "gpu_memset":
        return "memset"
    return next((kind for kind, names in KINDS if re.search(names, event["name"], re.I)), "other")


def summed(events, steps):
    """(kind, ms a step, launches a step) from the largest on."""
    spent, count = collections.Counter(), collections.Counter()
    for event in events:
        kind = kind_of(event)
        spent[kind] += event["dur"] / 1e3 / steps
        count[kind] += 1 / steps
    return [(kind, ms, count[kind]) for kind, ms in spent.most_common()]


def report(trace, steps):
    events = [one for one in trace["traceEvents"] if one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    if not events:
        return "The trace has no work of a GPU.\n"
    rows = [[kind, number(ms), f"{count:.0f}"] for kind, ms, count in summed(events, steps)]
    first, last = min(one["ts"] for one in events), max(one["ts"] + one["dur"] for one in events)
    busy = sum(one["dur"] for one in events) / 1e3 / steps
    rows.append(["sum", number(busy), f"{len(events) / steps:.0f}"])
    rows.append(["from the first to the last", number((last - first) / 1e3 / steps), ""])
    kernels = collections.Counter()
    for one in events:
        kernels[one["name"][:100]] += one["dur"] / 1e3 / steps
    longest = [[f"`{name}`", number(ms)] for name, ms in kernels.most_common(15)]
    return table(["kind", "ms a step", "launches a step"], rows) + "\n" + table(["longest kernels", "ms a step"], longest)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=3, help="in the trace")
    arguments = parser.parse_args()
    print(report(json.loads(arguments.trace.read_text()), arguments.steps))


if __name__ == "__main__":
    main()
