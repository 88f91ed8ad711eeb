"""Which configurations are traced.

AdamW in float64 gets the full product of accumulation, clipping, schedule and last batch; everything
else a selection in which every pair of choices meets at least once, and a list of special cases.
"""

import itertools

BATCH_SIZE = 4
EVEN_SAMPLES = 28
UNEVEN_SAMPLES = 26
OPTIMIZER_STEPS = 26

OPTIMIZERS = {
    "sgd": {"kind": "SGD", "lr": 0.05},
    "momentum": {"kind": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"kind": "Adam", "lr": 0.02, "betas": [0.9, 0.99], "weight_decay": 0.01},
    "adam_amsgrad": {"kind": "Adam", "lr": 0.02, "amsgrad": True},
    "adamw": {"kind": "AdamW", "lr": 0.02, "weight_decay": 0.05},
    "adamw_amsgrad": {"kind": "AdamW", "lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-6, "amsgrad": True},
}

# Outside the covering of pairs.
MORE_OPTIMIZERS = {
    "adagrad": {"kind": "Adagrad", "lr": 0.05},
    "adagrad_options": {
        "kind": "Adagrad", "lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.02, "initial_accumulator_value": 0.1, "eps": 1e-6
    },
    "lbfgs": {"kind": "LBFGS", "lr": 0.02, "max_iter": 3, "history_size": 5, "tolerance_grad": 0, "tolerance_change": 0},
    "lbfgs_wolfe": {"kind": "LBFGS", "lr": 0.5, "max_iter": 4, "history_size": 4, "line_search_fn": "strong_wolfe"},
}

CLIPS = {
    "noclip": {"kind": "none"},
    "norm": {"kind": "norm", "max_norm": 1.0, "norm_type": 2.0},
    "norminf": {"kind": "norm", "max_norm": 0.25, "norm_type": "inf"},
    "norm1": {"kind": "norm", "max_norm": 4.0, "norm_type": 1.0},
    "value": {"kind": "value", "clip_value": 0.125},
}

# The losses over classes have gradients about a quarter as large; with these clipping still bites.
LIMITS = ("max_norm", "clip_value")


def clip_for(name, loss):
    factor = 1.0 if loss == "mse" else 0.25
    return {key: value * factor if key in LIMITS else value for key, value in CLIPS[name].items()}


# The linear schedule ends before training does: the rate stays at zero afterwards.
SCHEDULERS = {
    "fixed": {"kind": "none"},
    "constant": {"kind": "constant", "warmup_steps": 6},
    "linear": {"kind": "linear", "warmup_steps": 3, "total_steps": 24},
    "cosine": {"kind": "cosine", "warmup_steps": 5, "total_steps": 28, "num_cycles": 0.5},
}

# dtype of parameters and data, and the precision the Accelerator is given.
PRECISIONS = {
    "float64": ("float64", "no"),
    "float32": ("float32", "no"),
    "bf16": ("float32", "bf16"),
    "fp16": ("float32", "fp16"),
}

SAMPLES = {"even": EVEN_SAMPLES, "uneven": UNEVEN_SAMPLES}

GROUPS = {
    "onegroup": None,
    "groups": [
        {"parameters": ["hidden.weight", "hidden.bias"], "lr": 0.03, "weight_decay": 0.1},
        {"parameters": ["output.weight"], "lr": 0.01, "weight_decay": 0.0},
        {"parameters": ["output.bias"]},
    ],
}


def optimizer_steps(processes):
    """Every rank's losses are kept: shorter traces with more of them."""
    return OPTIMIZER_STEPS if processes == 1 else 14


def epochs_needed(batches, steps, sync_with_dataloader, processes=1):
    """The number of epochs that makes at least so many optimizer steps."""
    if sync_with_dataloader:
        return -(-optimizer_steps(processes) // -(-batches // steps))
    return -(-optimizer_steps(processes) * steps // batches)


def configuration(
    name,
    *,
    loop="supervised",
    models=("mlp",),
    loss="mse",
    accumulation=1,
    clip="noclip",
    scheduler="fixed",
    optimizer="adamw",
    samples=EVEN_SAMPLES,
    precision="float64",
    sync_with_dataloader=True,
    step_scheduler_with_optimizer=True,
    drop_last=False,
    groups="onegroup",
    **extra,
):
    dtype, mixed_precision = PRECISIONS[precision]
    batches = samples // BATCH_SIZE if drop_last else -(-samples // BATCH_SIZE)
    epochs = epochs_needed(batches, accumulation, sync_with_dataloader)
    schedule = dict(SCHEDULERS[scheduler] if isinstance(scheduler, str) else scheduler)
    if not step_scheduler_with_optimizer and "total_steps" in schedule:
        schedule["total_steps"] = epochs * batches - 2
    chosen = {
        "name": name,
        "loop": loop,
        "models": list(models),
        "loss": loss,
        "dtype": dtype,
        "mixed_precision": mixed_precision,
        "gradient_accumulation_steps": accumulation,
        "sync_with_dataloader": sync_with_dataloader,
        "step_scheduler_with_optimizer": step_scheduler_with_optimizer,
        "samples": samples,
        "batch_size": BATCH_SIZE,
        "drop_last": drop_last,
        "epochs": epochs,
        "clip": clip_for(clip, loss),
        "scheduler": schedule,
        "optimizer": dict((OPTIMIZERS | MORE_OPTIMIZERS)[optimizer]),
        "evaluate_every": 0,
        "frozen": [],
        "loss_under_autocast": False,
    }
    if GROUPS[groups]:
        chosen["optimizer"]["groups"] = GROUPS[groups]
    unknown = set(extra) - set(chosen) - {"scaler"}
    if unknown:
        raise ValueError(f"unknown parts of a configuration: {sorted(unknown)}")
    chosen.update(extra)
    return chosen


def full_product():
    for accumulation, clip, scheduler, last in itertools.product(
        (1, 2, 3), ("noclip", "norm", "value"), SCHEDULERS, SAMPLES
    ):
        yield configuration(
            f"adamw-float64-every{accumulation}-{clip}-{scheduler}-{last}",
            accumulation=accumulation,
            clip=clip,
            scheduler=scheduler,
            samples=SAMPLES[last],
        )


FACTORS = {
    "optimizer": tuple(OPTIMIZERS),
    "clip": tuple(CLIPS),
    "scheduler": tuple(SCHEDULERS),
    "accumulation": (1, 2, 3),
    "precision": tuple(PRECISIONS),
    "last": tuple(SAMPLES),
    "sync_with_dataloader": (True, False),
    "step_scheduler_with_optimizer": (True, False),
    "loss": ("mse", "cross_entropy"),
    "groups": tuple(GROUPS),
}


def _pairs(row):
    return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(row, 2)}


def pairwise_rows():
    """Greedy covering of all pairs of choices. Deterministic: ties go to the choice listed first."""
    names = list(FACTORS)
    missing = set()
    for a, b in itertools.combinations(names, 2):
        missing |= {((a, x), (b, y)) for x in FACTORS[a] for y in FACTORS[b]}
    rank = {(name, value): (names.index(name), i) for name in names for i, value in enumerate(FACTORS[name])}
    rows = []
    while missing:
        first = min(missing, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        chosen = dict(first)
        for name in names:
            if name in chosen:
                continue

            def gain(value, name=name):
                candidate = {**chosen, name: value}
                ordered = {key: candidate[key] for key in names if key in candidate}
                return len(_pairs(ordered) & missing)

            chosen[name] = max(FACTORS[name], key=gain)
        row = {name: chosen[name] for name in names}
        missing -= _pairs(row)
        rows.append(row)
    return rows


def pairwise():
    for row in pairwise_rows():
        last = row.pop("last")
        labels = [row["optimizer"], row["precision"], f"every{row['accumulation']}", row["clip"], row["scheduler"], last]
        if not row["sync_with_dataloader"]:
            labels.append("acrossepochs")
        if not row["step_scheduler_with_optimizer"]:
            labels.append("untied")
        if row["loss"] == "cross_entropy":
            labels.append("classes")
        if row["groups"] == "groups":
            labels.append("groups")
        yield configuration("pair-" + "-".join(labels), samples=SAMPLES[last], **row)


def special():
    yield configuration("loader-shorter-than-window", accumulation=3, samples=6, scheduler="linear", clip="norm")
    yield configuration(
        "loader-shorter-than-window-acrossepochs",
        accumulation=3,
        samples=9,
        scheduler="cosine",
        sync_with_dataloader=False,
    )
    yield configuration("last-batch-of-one", accumulation=2, samples=25, scheduler="cosine", clip="norm")
    yield configuration("drop-last", accumulation=4, samples=26, scheduler="linear", clip="norm", drop_last=True)
    yield configuration("one-window-per-epoch", accumulation=7, scheduler="constant", clip="norm")
    yield configuration(
        "cosine-more-cycles",
        accumulation=2,
        scheduler={"kind": "cosine", "warmup_steps": 0, "total_steps": 25, "num_cycles": 1.5},
    )
    for precision in PRECISIONS:
        yield configuration(
            f"convolution-{precision}",
            models=["convolution"],
            loss="cross_entropy",
            accumulation=2,
            samples=UNEVEN_SAMPLES,
            scheduler="cosine",
            clip="norm",
            precision=precision,
        )
    yield configuration(
        "evaluation-inside",
        accumulation=2,
        samples=UNEVEN_SAMPLES,
        scheduler="linear",
        clip="norm",
        evaluate_every=3,
    )
    yield configuration(
        "frozen-parameters",
        accumulation=2,
        scheduler="constant",
        clip="norm",
        frozen=["hidden.weight", "output.bias"],
    )
    yield configuration(
        "loss-under-autocast",
        accumulation=2,
        samples=UNEVEN_SAMPLES,
        loss="cross_entropy",
        precision="bf16",
        clip="norm",
        loss_under_autocast=True,
    )
    for accumulation in (1, 2, 3):
        yield configuration(
            f"two-models-one-loss-every{accumulation}",
            loop="two_models",
            models=["encoder", "head"],
            accumulation=accumulation,
            samples=UNEVEN_SAMPLES,
            scheduler="cosine",
            clip="norm",
        )
        yield configuration(
            f"adversarial-every{accumulation}",
            loop="adversarial",
            models=["generator", "discriminator"],
            loss="binary_cross_entropy",
            accumulation=accumulation,
            samples=UNEVEN_SAMPLES,
            scheduler="linear",
            clip="norm",
            optimizer="adam",
        )


def scaling():
    """fp16 with a scale that grows until gradients overflow, or overflows at once and shrinks."""
    growing = {"init_scale": 4096.0, "growth_interval": 2}
    shrinking = {"init_scale": 2.0**24, "growth_interval": 4, "growth_factor": 4.0, "backoff_factor": 0.25}
    for accumulation in (1, 2):
        yield configuration(f"scaled-growing-every{accumulation}", accumulation=accumulation, precision="fp16",
                            samples=UNEVEN_SAMPLES, clip="norm", scheduler="linear", scaler=growing)
        yield configuration(f"scaled-shrinking-every{accumulation}", accumulation=accumulation, precision="fp16",
                            optimizer="sgd", samples=UNEVEN_SAMPLES, clip="value", scheduler="cosine", scaler=shrinking)
    yield configuration("scaled-classes", precision="fp16", loss="cross_entropy", scheduler="constant",
                        samples=UNEVEN_SAMPLES, scaler=growing)


def preparing():
    """Other optimizers and closures, tied weights, an optimizer for each of two models."""
    for accumulation in (1, 2):
        yield configuration(f"adagrad-every{accumulation}", optimizer="adagrad", accumulation=accumulation, clip="norm",
                            scheduler="cosine", samples=UNEVEN_SAMPLES)
        yield configuration(f"closure-adamw-every{accumulation}", loop="closure", accumulation=accumulation,
                            scheduler="cosine", samples=UNEVEN_SAMPLES)
        # The same samples at each of its steps: it is no optimizer for changing ones.
        yield configuration(f"closure-lbfgs-every{accumulation}", loop="closure", optimizer="lbfgs",
                            accumulation=accumulation, batch_size=EVEN_SAMPLES // accumulation, epochs=OPTIMIZER_STEPS)
        yield configuration(f"tied-every{accumulation}", models=["tied"], accumulation=accumulation, clip="norm",
                            scheduler="linear", samples=UNEVEN_SAMPLES)
        yield configuration(f"two-optimizers-every{accumulation}", loop="two_optimizers", models=["encoder", "head"],
                            accumulation=accumulation, scheduler="linear", clip="norm", samples=UNEVEN_SAMPLES)
    yield configuration("adagrad-options-groups", optimizer="adagrad_options", groups="groups", accumulation=3,
                        scheduler="constant", clip="value")
    yield configuration("adagrad-float32", optimizer="adagrad", precision="float32", accumulation=2)
    yield configuration("closure-lbfgs-wolfe", loop="closure", optimizer="lbfgs_wolfe", batch_size=EVEN_SAMPLES,
                        epochs=OPTIMIZER_STEPS)
    yield configuration("tied-momentum", models=["tied"], optimizer="momentum", accumulation=2)


def configurations():
    """Every traced configuration, under names that are all different."""
    chosen = [*full_product(), *pairwise(), *special(), *preparing(), *scaling()]
    names = [configuration["name"] for configuration in chosen]
    if len(set(names)) != len(names):
        raise ValueError("two configurations share one name")
    return chosen
