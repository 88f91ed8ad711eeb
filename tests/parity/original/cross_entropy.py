"""Losses and gradients of language-model heads: torch's cross_entropy over the float32 copy of 16-bit logits."""

import torch
from torch.nn import functional as F

ROWS, CLASSES = 7, 13
DENOMINATOR = 16

CASES = [
    {"dtype": "bfloat16", "reduction": "mean"},
    {"dtype": "bfloat16", "reduction": "mean", "label_smoothing": 0.1, "ignore_index": 4},
    {"dtype": "float16", "reduction": "sum", "label_smoothing": 0.25},
    {"dtype": "float16", "reduction": "none", "ignore_index": 0},
    {"dtype": "float32", "reduction": "mean", "ignore_index": 11},
    {"dtype": "bfloat16", "reduction": "mean", "weights": True, "label_smoothing": 0.1},
]


def logits():
    """Exact in every dtype: less than 8 bits."""
    values = [(i * 37 + (i // CLASSES) * 11) % 127 - 63 for i in range(ROWS * CLASSES)]
    return torch.tensor(values, dtype=torch.float32).reshape(ROWS, CLASSES) / DENOMINATOR


def targets():
    return torch.tensor([(row * 4) % CLASSES for row in range(ROWS)])


def weights():
    return torch.arange(1, CLASSES + 1, dtype=torch.float32) / 8


def result(case):
    options = {name: case[name] for name in ("reduction", "label_smoothing", "ignore_index") if name in case}
    if case.get("weights"):
        options["weight"] = weights()
    leaf = logits().to(getattr(torch, case["dtype"])).requires_grad_()
    loss = F.cross_entropy(leaf.float(), targets(), **options)
    (loss * torch.arange(1, loss.numel() + 1)).sum().backward()
    return {"options": case, "loss": loss.detach().flatten().tolist(), "gradient": leaf.grad.float().flatten().tolist()}


def document():
    return {
        "shape": [ROWS, CLASSES],
        "configuration": {"dtype": "float32"},
        "targets": targets().tolist(),
        "logits": logits().flatten().tolist(),
        "weights": weights().tolist(),
        "cases": [result(case) for case in CASES],
    }
