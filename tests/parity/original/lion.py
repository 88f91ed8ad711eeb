"""Lion's steps. It is in no package of the original's; these are the lines of its authors' lion_pytorch.py."""

import torch

STEPS = 24
SHAPE = (3, 5)
DENOMINATOR = 64

CASES = [
    {"lr": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.0},
    {"lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.3},
    {"lr": 1e-2, "betas": [0.0, 0.5], "weight_decay": 0.1},
]


def numbers(seed):
    """Exact in float32; 0 now and then, of which the sign is 0."""
    count = SHAPE[0] * SHAPE[1]
    values = [(seed * seed * 29 + i * 83 + seed * i * 7) % 129 - 64 for i in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(SHAPE) / DENOMINATOR


def trace(case):
    parameter, average = numbers(0), torch.zeros(SHAPE, dtype=torch.float64)
    beta1, beta2 = case["betas"]
    steps = []
    for step in range(1, STEPS + 1):
        gradient = numbers(step)
        # Perform stepweight decay
        parameter.mul_(1 - case["lr"] * case["weight_decay"])
        # Weight update
        update = average * beta1 + gradient * (1 - beta1)
        parameter.add_(torch.sign(update), alpha=-case["lr"])
        # Decay the momentum running average coefficient
        average.mul_(beta2).add_(gradient, alpha=1 - beta2)
        if step % 6 == 0:
            steps.append({"parameter": parameter.flatten().tolist(), "exp_avg": average.flatten().tolist()})
    return {"options": case, "every": 6, "steps": steps}


def document():
    return {"shape": list(SHAPE), "denominator": DENOMINATOR, "cases": [trace(case) for case in CASES]}
