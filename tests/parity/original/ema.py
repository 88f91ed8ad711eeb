"""Averages of weights: torch.optim.swa_utils, and the decays of diffusers' EMAModel."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = 40
WEIGHTS, STATISTICS = 6, 3
DENOMINATOR = 64
EVERY = 3  # updates between two that are written down


def numerators(step):
    """What the weights and the buffer hold after `step` updates: exact in float32."""
    count = WEIGHTS + STATISTICS
    return [(step * step * 37 + i * 101 + step * i * 13) % 257 - 128 for i in range(count)]


def digits(tensor):
    """The shortest numbers that are these in float32."""
    return [float(f"{value:.9g}") for value in tensor.tolist()]


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(WEIGHTS))
        self.register_buffer("statistics", torch.zeros(STATISTICS))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def become(self, step):
        values = torch.tensor(numerators(step), dtype=torch.float32) / DENOMINATOR
        self.weight.copy_(values[:WEIGHTS])
        self.statistics.copy_(values[WEIGHTS:])
        self.seen.fill_(step)


def averaged_model(decay, use_buffers):
    model = Model()
    model.become(0)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers)
    trace = []
    for step in range(1, STEPS + 1):
        model.become(step)
        ema.update_parameters(model)
        trace.append(digits(ema.module.weight) + (digits(ema.module.statistics) if use_buffers else []))
    return {"options": {"decay": decay, "use_buffers": use_buffers}, "averages": trace[::EVERY], "decays": None}


# diffusers is no dependency of the original; these two are the formulas of diffusers.training_utils.EMAModel.
def diffusers_decay(options, optimization_step):
    step = max(0, optimization_step - options["update_after_step"] - 1)
    if step <= 0:
        return 0.0
    if options["use_ema_warmup"]:
        value = 1 - (1 + step / options["inv_gamma"]) ** -options["power"]
    else:
        value = (1 + step) / (10 + step)
    return max(min(value, options["decay"]), options["min_decay"])


def diffusers_model(given):
    defaults = {"decay": 0.9999, "min_decay": 0.0, "update_after_step": 0, "use_ema_warmup": False}
    options = {**defaults, "inv_gamma": 1.0, "power": 2 / 3, **given}
    model = Model()
    model.become(0)
    shadow = model.weight.detach().clone()
    trace, decays = [], []
    for step in range(1, STEPS + 1):
        model.become(step)
        decay = diffusers_decay(options, step)
        shadow.sub_((1 - decay) * (shadow - model.weight.detach()))
        trace.append(digits(shadow))
        decays.append(decay)
    # Without warm-up it ramps up: a choice of its own here.
    options["ramp_up"] = not options["use_ema_warmup"]
    return {"options": options, "averages": trace[::EVERY], "decays": decays}


def document():
    cases = [averaged_model(decay, buffers) for decay in (0.999, 0.9, 0.5, 0.0, 1.0) for buffers in (False, True)]
    for given in (
        {},
        {"decay": 0.6},
        {"min_decay": 0.4, "update_after_step": 3},
        {"use_ema_warmup": True},
        {"use_ema_warmup": True, "inv_gamma": 3.0, "power": 0.75, "update_after_step": 7},
        {"use_ema_warmup": True, "decay": 0.8, "min_decay": 0.7},
    ):
        cases.append(diffusers_model(given))
    weights = [numerators(step) for step in range(STEPS + 1)]
    settings = {"dtype": "float32", "steps": STEPS, "every": EVERY}
    return {"configuration": settings, "denominator": DENOMINATOR, "numerators": weights, "cases": cases}
