"""Learning rates of prepared schedulers: processes x accumulation x split_batches x step_scheduler_with_optimizer.

Nothing is computed but a loss of one parameter: what is recorded is when schedulers move, and how far.
"""

import itertools
import warnings

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin
from torch.utils.data import DataLoader, TensorDataset

from . import schedules

SAMPLES, BATCH_SIZE, EPOCHS = 22, 4, 2
GROUP_RATES = [0.5, 0.25]

# Long enough for the most steps that any combination takes; but for one, which ends early.
DESCRIPTIONS = {
    "linear": {"kind": "linear", "warmup_steps": 3, "total_steps": 13},
    "step": {"kind": "step_lr", "step_size": 2, "gamma": 0.5},
    "one_cycle": {"kind": "one_cycle_lr", "max_lr": 0.5, "total_steps": 30},
    "one_cycle_ends": {"kind": "one_cycle_lr", "max_lr": [0.5, 0.125], "total_steps": 5, "cycle_momentum": False},
    "cyclic": {"kind": "cyclic_lr", "base_lr": 0.125, "max_lr": 0.5, "step_size_up": 3},
    "plateau": {"kind": "plateau", "factor": 0.5, "patience": 1},
}


def combinations():
    for name, steps, split, tied in itertools.product(DESCRIPTIONS, (1, 2, 4), (False, True), (True, False)):
        if name == "one_cycle_ends" and (split or not tied):
            continue  # there the original raises when it is stepped beyond its end
        yield {"name": name, "accumulation": steps, "split_batches": split, "tied": tied}


def _scheduler(description, optimizer):
    if description["kind"] != "plateau":
        return schedules.make(description, optimizer)
    options = {key: value for key, value in description.items() if key != "kind"}
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)


def case(combination):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=combination["accumulation"]),
        step_scheduler_with_optimizer=combination["tied"],
        dataloader_config=DataLoaderConfiguration(split_batches=combination["split_batches"]),
    )
    model = torch.nn.Linear(1, 1)
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in zip(model.parameters(), GROUP_RATES, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=GROUP_RATES[0], momentum=0.9)
    description = DESCRIPTIONS[combination["name"]]
    scheduler = _scheduler(description, optimizer)
    loader = DataLoader(TensorDataset(torch.zeros(SAMPLES, 1)), batch_size=BATCH_SIZE)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    rates, momentum, last_epoch = [], [], []
    for _ in range(EPOCHS):
        for (x,) in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x).sum() * 0)
                optimizer.step()
                # A metric that never gets better.
                scheduler.step(1.0) if description["kind"] == "plateau" else scheduler.step()
                optimizer.zero_grad()
            rates.append([group["lr"] for group in optimizer.param_groups])
            momentum.append(optimizer.param_groups[0]["momentum"])
            last_epoch.append(scheduler.scheduler.last_epoch)
    recorded = {**combination, "rates": rates, "last_epoch": last_epoch}
    return recorded | {"momentum": momentum} if len(set(momentum)) > 1 else recorded


def document(processes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # untied schedules step before the first update: it is meant
        cases = [case(combination) for combination in combinations()]
    return {
        "processes": processes,
        "samples": SAMPLES,
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "group_rates": GROUP_RATES,
        "descriptions": DESCRIPTIONS,
        "cases": cases,
    }
