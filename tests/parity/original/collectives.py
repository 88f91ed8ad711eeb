"""Gather, reduce, broadcast and padding of nested values: what every rank gets back."""

import torch
from accelerate.utils import broadcast, gather_object

from .gather import CONFIGURATION
from .traces import fresh_accelerator


def listed(value):
    """Tensors as shape, dtype and elements; containers as they are."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"shape": list(value.shape), "dtype": dtype, "values": value.flatten().tolist()}
    if isinstance(value, dict):
        return {key: listed(entry) for key, entry in value.items()}
    return [listed(entry) for entry in value]


def nested(rank):
    """The C++ side builds the same values."""
    base = torch.arange(6, dtype=torch.float64).reshape(2, 3) + 10 * rank
    return {
        "matrix": base,
        "pair": (base.to(torch.float32) / 4, [torch.arange(3) - rank, torch.tensor(rank)]),
        "transposed": base.t(),
        "flags": torch.tensor([rank % 2 == 0, True, False]),
        "half": base.to(torch.bfloat16),
        "bytes": torch.tensor([rank, 255], dtype=torch.uint8),
        "empty": torch.zeros((0, 4), dtype=torch.float32),
    }


def numbers(rank):
    return {
        "double": torch.tensor([0.5, -1.5, 3.0], dtype=torch.float64) * (rank + 1),
        "float": torch.tensor([[1.0, 2.0]], dtype=torch.float32) + rank,
        "scalar": torch.tensor(2.0 * rank),
    }


def ragged(rank):
    return torch.arange((rank + 2) * 2).reshape(rank + 2, 2) + 100 * rank


def document(rank, size):
    accelerator = fresh_accelerator(CONFIGURATION)
    whole = {"long": torch.arange(4) + rank}
    before = numbers(rank)
    return {
        "gather": listed(accelerator.gather(nested(rank))),
        "sum": listed(accelerator.reduce({**before, **whole})),
        "mean": listed(accelerator.reduce(before, reduction="mean")),
        "max": listed(accelerator.reduce({**before, **whole}, reduction="max")),
        "scaled": listed(accelerator.reduce(before, reduction="mean", scale=0.5)),
        "broadcast": listed(broadcast(nested(rank), from_process=size - 1)),
        "padded": listed(accelerator.pad_across_processes(ragged(rank))),
        "padded_first": listed(accelerator.pad_across_processes(ragged(rank), pad_index=-7, pad_first=True)),
        "padded_columns": listed(accelerator.pad_across_processes(ragged(rank).t().contiguous(), dim=-1, pad_index=9)),
        "padded_nowhere": listed(accelerator.pad_across_processes(ragged(rank), dim=2)),
        "objects": gather_object([f"rank {rank}", "x" * rank]),
    }
