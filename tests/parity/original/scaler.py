"""`torch.amp.GradScaler` over updates that overflow or do not."""

import random

import torch

OPTIONS = [
    {},
    {"init_scale": 1024.0, "growth_factor": 2.0},
    {"init_scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2},
    {"init_scale": 2.0**126, "growth_interval": 1},
    {"init_scale": 2.0**-60, "growth_interval": 5, "backoff_factor": 0.125},
    {"init_scale": 1.0, "growth_interval": 3, "growth_factor": 1.5, "backoff_factor": 0.7},
    {"init_scale": 4.0, "enabled": False},
]
UPDATES = 40


def run(options, overflows):
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", **options)
    steps = []
    for overflow in overflows:
        before = parameter.detach().clone()
        optimizer.zero_grad()
        scaler.scale(parameter.sum()).backward()
        if overflow:
            parameter.grad[1] = float(overflow)
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        steps.append([scaler.get_scale(), state.get("_growth_tracker", 0), bool(torch.equal(parameter, before))])
    return steps


def document():
    drawn = random.Random(7)
    cases = []
    for options in OPTIONS:
        enabled = options.get("enabled", True)
        overflows = [drawn.choice(["", "", "", "inf", "nan"]) if enabled else "" for _ in range(UPDATES)]
        cases.append({"options": options, "overflows": overflows, "updates": run(options, overflows)})
    return {"cases": cases}
