"""The learning rate schedules of transformers and torch: factors of the base rate, and whole columns of rates."""

import math
import struct

import torch
import transformers
from torch.optim import lr_scheduler

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


# The schedules of the names below over 1,000 steps; a thousand numbers for each would be megabytes, see `summary`.

LONG = 1000

# name of the function here -> how the original makes it, from the same options.
MAKERS = {
    "linear": lambda o, a: transformers.get_linear_schedule_with_warmup(o, a["warmup_steps"], a["total_steps"]),
    "cosine": lambda o, a: transformers.get_cosine_schedule_with_warmup(
        o, a["warmup_steps"], a["total_steps"], a["num_cycles"]
    ),
    "polynomial": lambda o, a: transformers.get_polynomial_decay_schedule_with_warmup(
        o, a["warmup_steps"], a["total_steps"], lr_end=a["lr_end"], power=a["power"]
    ),
    "inverse_sqrt": lambda o, a: transformers.get_inverse_sqrt_schedule(o, a["warmup_steps"], a.get("timescale")),
    "cosine_with_restarts": lambda o, a: transformers.get_cosine_with_hard_restarts_schedule_with_warmup(
        o, a["warmup_steps"], a["total_steps"], a["num_cycles"]
    ),
    "cosine_with_min_lr": lambda o, a: transformers.get_cosine_with_min_lr_schedule_with_warmup(
        o, a["warmup_steps"], a["total_steps"], a["num_cycles"], min_lr=a.get("min_lr"), min_lr_rate=a.get("min_lr_rate")
    ),
    "cosine_warmup_with_min_lr": lambda o, a: transformers.get_scheduler(
        "cosine_warmup_with_min_lr", o, a["warmup_steps"], a["total_steps"],
        {key: a[key] for key in ("num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate") if key in a},
    ),
    "warmup_stable_decay": lambda o, a: transformers.get_wsd_schedule(
        o, a["warmup_steps"], a["decay_steps"], a.get("total_steps"), a.get("stable_steps"), a["warmup_type"],
        a["decay_type"], a["min_lr_ratio"], a["num_cycles"],
    ),
    "step_lr": lambda o, a: lr_scheduler.StepLR(o, **a),
    "multi_step_lr": lambda o, a: lr_scheduler.MultiStepLR(o, **a),
    "exponential_lr": lambda o, a: lr_scheduler.ExponentialLR(o, **a),
    "constant_lr": lambda o, a: lr_scheduler.ConstantLR(o, **a),
    "linear_lr": lambda o, a: lr_scheduler.LinearLR(o, **a),
    "polynomial_lr": lambda o, a: lr_scheduler.PolynomialLR(o, **a),
    "cosine_annealing_lr": lambda o, a: lr_scheduler.CosineAnnealingLR(o, **a),
    "cosine_annealing_warm_restarts": lambda o, a: lr_scheduler.CosineAnnealingWarmRestarts(o, **a),
    "one_cycle_lr": lambda o, a: lr_scheduler.OneCycleLR(o, **a),
    "cyclic_lr": lambda o, a: lr_scheduler.CyclicLR(o, **a),
    "lambda": lambda o, a: lr_scheduler.LambdaLR(o, [lambda n: 1.0 / (1.0 + n), lambda n: 0.95**n]),
    "chained": lambda o, a: lr_scheduler.ChainedScheduler([make(part, o) for part in a["parts"]]),
    "sequential": lambda o, a: lr_scheduler.SequentialLR(o, [make(part, o) for part in a["parts"]], a["milestones"]),
}


def make(description, optimizer):
    options = {key: value for key, value in description.items() if key != "kind"}
    return MAKERS[description["kind"]](optimizer, options)


def _warm(kind, **options):
    return {"kind": kind, "warmup_steps": 100, "total_steps": 900} | options


_WSD = {"kind": "warmup_stable_decay", "num_cycles": 0.5}

LONG_DESCRIPTIONS = [
    _warm("linear"),
    _warm("cosine", num_cycles=0.5),
    _warm("polynomial", lr_end=1e-7, power=1.0),
    _warm("polynomial", lr_end=1e-3, power=2.5),
    _warm("polynomial", warmup_steps=0, total_steps=1000, lr_end=0.0, power=0.5),
    {"kind": "inverse_sqrt", "warmup_steps": 100},
    {"kind": "inverse_sqrt", "warmup_steps": 0},
    {"kind": "inverse_sqrt", "warmup_steps": 50, "timescale": 20},
    _warm("cosine_with_restarts", num_cycles=1),
    _warm("cosine_with_restarts", warmup_steps=37, num_cycles=4),
    _warm("cosine_with_min_lr", num_cycles=0.5, min_lr=1e-3),
    _warm("cosine_with_min_lr", num_cycles=1.5, min_lr_rate=0.25),
    _warm("cosine_warmup_with_min_lr", num_cycles=0.5, min_lr=1e-3),
    _warm("cosine_warmup_with_min_lr", num_cycles=0.5, min_lr_rate=0.125, warmup_lr_rate=0.0625),
    _WSD | {"warmup_steps": 100, "decay_steps": 300, "total_steps": 900, "warmup_type": "linear",
            "decay_type": "cosine", "min_lr_ratio": 0.0},
    _WSD | {"warmup_steps": 150, "decay_steps": 400, "stable_steps": 200, "warmup_type": "cosine",
            "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
    _WSD | {"warmup_steps": 90, "decay_steps": 200, "stable_steps": 0, "warmup_type": "1-sqrt",
            "decay_type": "linear", "min_lr_ratio": 0.05},
    {"kind": "step_lr", "step_size": 30, "gamma": 0.9},
    {"kind": "step_lr", "step_size": 1, "gamma": 0.99},
    {"kind": "multi_step_lr", "milestones": [500, 40, 40, 800], "gamma": 0.3},
    {"kind": "exponential_lr", "gamma": 0.995},
    {"kind": "constant_lr", "factor": 0.3, "total_iters": 77},
    {"kind": "linear_lr", "start_factor": 0.1, "end_factor": 0.7, "total_iters": 640},
    {"kind": "polynomial_lr", "total_iters": 800, "power": 1.7},
    {"kind": "cosine_annealing_lr", "T_max": 170, "eta_min": 1e-3},
    {"kind": "cosine_annealing_lr", "T_max": 1000, "eta_min": 0.0},
    {"kind": "cosine_annealing_warm_restarts", "T_0": 90, "T_mult": 1, "eta_min": 0.0},
    {"kind": "cosine_annealing_warm_restarts", "T_0": 35, "T_mult": 2, "eta_min": 1e-4},
    {"kind": "one_cycle_lr", "max_lr": 0.1, "total_steps": 1001},
    {"kind": "one_cycle_lr", "max_lr": [0.3, 0.02], "epochs": 7, "steps_per_epoch": 143, "pct_start": 0.25,
     "anneal_strategy": "linear", "base_momentum": 0.8, "max_momentum": [0.9, 0.99], "div_factor": 10.0,
     "final_div_factor": 100.0, "three_phase": True},
    {"kind": "one_cycle_lr", "max_lr": 0.1, "total_steps": 1001, "pct_start": 0.0005, "cycle_momentum": False},
    {"kind": "cyclic_lr", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 120},
    {"kind": "cyclic_lr", "base_lr": [0.001, 0.01], "max_lr": [0.5, 0.2], "step_size_up": 60, "step_size_down": 95,
     "mode": "triangular2", "base_momentum": 0.7, "max_momentum": 0.95},
    {"kind": "cyclic_lr", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 33, "step_size_down": 11,
     "mode": "exp_range", "gamma": 0.997, "cycle_momentum": False},
    {"kind": "lambda"},
    {"kind": "chained", "parts": [{"kind": "constant_lr", "factor": 0.5, "total_iters": 20},
                                  {"kind": "exponential_lr", "gamma": 0.999},
                                  {"kind": "multi_step_lr", "milestones": [100, 700], "gamma": 0.5}]},
    {"kind": "sequential", "milestones": [100, 600],
     "parts": [{"kind": "linear_lr", "start_factor": 0.01, "end_factor": 1.0, "total_iters": 100},
               {"kind": "exponential_lr", "gamma": 0.998},
               {"kind": "cosine_annealing_lr", "T_max": 400, "eta_min": 0.0}]},
    {"kind": "sequential", "milestones": [50],
     "parts": [{"kind": "constant_lr", "factor": 0.1, "total_iters": 50},
               _warm("cosine", warmup_steps=10, total_steps=950, num_cycles=0.5)]},
]

# What two groups start with; the first is the optimizer's default, to which transformers ties absolute minima.
GROUP_RATES = [0.1, 0.02]
ABSOLUTE = ("polynomial", "cosine_with_min_lr", "cosine_warmup_with_min_lr")
# Whose rates are a function of the step in the original, too, and so equal to the last bit.
EXACT = (
    "linear", "cosine", "polynomial", "inverse_sqrt", "cosine_with_restarts", "cosine_with_min_lr",
    "cosine_warmup_with_min_lr", "warmup_stable_decay", "one_cycle_lr", "cyclic_lr", "lambda",
    "cosine_annealing_warm_restarts",
)
BLOCK = 40


def fnv1a(column):
    """A hash of the bytes of all values: equal columns are equal to the last bit."""
    value = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(column)}d", *column):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def summary(column, exact):
    """A thousand numbers in fifty: of each block of steps the sum, and the sum weighted by the place in the block."""
    blocks = [column[begin : begin + BLOCK] for begin in range(0, len(column), BLOCK)]
    sums = [[math.fsum(block), math.fsum(place * value for place, value in enumerate(block, 1))] for block in blocks]
    return {"blocks": sums, "hash": fnv1a(column)} if exact else {"blocks": sums}


def long_case(description):
    rates_of_groups = GROUP_RATES[:1] if description["kind"] in ABSOLUTE else GROUP_RATES
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates_of_groups]
    optimizer = torch.optim.SGD(groups, lr=GROUP_RATES[0], momentum=0.9)
    scheduler = make(description, optimizer)
    keys = ["lr", "momentum"] if description["kind"] in ("one_cycle_lr", "cyclic_lr") else ["lr"]
    columns = {key: [[] for _ in groups] for key in keys}
    for step in range(LONG + 1):
        for key in keys:
            for column, group in zip(columns[key], optimizer.param_groups, strict=True):
                column.append(float(group[key]))
        if step < LONG:
            optimizer.step()
            scheduler.step()
    exact = description["kind"] in EXACT
    return {"schedule": description, "base_rates": rates_of_groups} | {
        key: [summary(column, exact) for column in columns[key]] for key in keys
    }


PLATEAUS = [
    {"factor": 0.5, "patience": 3},
    {"mode": "max", "factor": 0.3, "patience": 0, "threshold": 0.01, "threshold_mode": "abs"},
    {"mode": "max", "factor": 0.7, "patience": 2, "threshold": 0.02, "threshold_mode": "rel", "cooldown": 4},
    {"factor": 0.1, "patience": 5, "cooldown": 3, "min_lr": [1e-3, 5e-4], "threshold_mode": "abs", "threshold": 0.03},
    {"factor": 0.9, "patience": 1, "eps": 2e-3, "min_lr": 0.01},
]


def metrics():
    """1,000 metrics that fall, stay and jump: whole numbers over 1024, from a generator that every language has."""
    state, values = 12345, []
    for step in range(LONG):
        state = (1103515245 * state + 12345) % 2**31
        values.append((2000 - step + state // 2**16 % 600) / 1024)
    return values


def plateau_case(options):
    """The steps at which rates change, and what they are then."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in GROUP_RATES]
    optimizer = torch.optim.SGD(groups, lr=GROUP_RATES[0])
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    changes, last = [], list(GROUP_RATES)
    for step, metric in enumerate(metrics(), 1):
        optimizer.step()
        scheduler.step(metric)
        now = [group["lr"] for group in optimizer.param_groups]
        if now != last:
            changes.append([step, *now])
        last = now
    return {"options": options, "changes": changes}


def long_document():
    return {
        "steps": LONG,
        "block": BLOCK,
        "cases": [long_case(description) for description in LONG_DESCRIPTIONS],
        "group_rates": GROUP_RATES,
        "plateaus": [plateau_case(options) for options in PLATEAUS],
    }
