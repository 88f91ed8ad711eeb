"""The learning rate schedules of transformers, as factors of the base rate."""

import torch

from .traces import make_scheduler

STEPS = 200
BASE_RATES = [1.0, 0.1, 5e-5, 3e-4, 1.0 / 3.0]

DESCRIPTIONS = [
    {"kind": "constant", "warmup_steps": 0},
    {"kind": "constant", "warmup_steps": 1},
    {"kind": "constant", "warmup_steps": 7},
    {"kind": "constant", "warmup_steps": 300},
    {"kind": "linear", "warmup_steps": 0, "total_steps": 100},
    {"kind": "linear", "warmup_steps": 10, "total_steps": 150},
    {"kind": "linear", "warmup_steps": 33, "total_steps": 200},
    {"kind": "linear", "warmup_steps": 50, "total_steps": 50},
    {"kind": "linear", "warmup_steps": 60, "total_steps": 40},
    {"kind": "linear", "warmup_steps": 0, "total_steps": 1},
    {"kind": "linear", "warmup_steps": 0, "total_steps": 0},
    {"kind": "cosine", "warmup_steps": 0, "total_steps": 100, "num_cycles": 0.5},
    {"kind": "cosine", "warmup_steps": 10, "total_steps": 150, "num_cycles": 0.5},
    {"kind": "cosine", "warmup_steps": 33, "total_steps": 300, "num_cycles": 0.5},
    {"kind": "cosine", "warmup_steps": 50, "total_steps": 50, "num_cycles": 0.5},
    {"kind": "cosine", "warmup_steps": 60, "total_steps": 40, "num_cycles": 0.5},
    {"kind": "cosine", "warmup_steps": 20, "total_steps": 180, "num_cycles": 1.0},
    {"kind": "cosine", "warmup_steps": 5, "total_steps": 170, "num_cycles": 2.25},
    {"kind": "cosine", "warmup_steps": 0, "total_steps": 1, "num_cycles": 0.5},
]


def rates(description, base_rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_rate)
    scheduler = make_scheduler(description, optimizer)
    column = [optimizer.param_groups[0]["lr"]]
    for _ in range(STEPS):
        optimizer.step()
        scheduler.step()
        column.append(optimizer.param_groups[0]["lr"])
    return column


def document():
    """Rates for base 1 are the factors; those for the other bases are stored every ninth step."""
    cases = []
    for description in DESCRIPTIONS:
        cases.append(
            {
                "schedule": description,
                "factors": rates(description, 1.0),
                "rates_every_ninth_step": {repr(base): rates(description, base)[::9] for base in BASE_RATES},
            }
        )
    return {"steps": STEPS, "cases": cases}
