"""Which configurations are traced in 2 and 4 processes.

With 2, AdamW in float64 gets accumulation, clipping, schedule tie and last batch in a covering selection;
precisions, optimizers, loops and the loader's own options follow, each once or twice. With 4, a few of all.
"""

import itertools

from .configurations import configuration, epochs_needed, optimizer_steps

# Per process. 24 samples make whole rounds of 2 x 4 and 4 x 2; with 26 and 27 the last round is filled up.
BATCH_SIZES = {2: 4, 4: 2}
SAMPLES = {"even": 24, "uneven": 26, "odd": 27}


def rounds(processes, batch_size, samples, drop_last=False, split_batches=False):
    """Batches of each rank in a pass; with ragged ends, the longest."""
    whole = batch_size if split_batches else processes * batch_size
    return samples // whole if drop_last else -(-samples // whole)


def several(name, processes, *, samples="uneven", batch_size=None, dataloader_config=None, scheduler="cosine", **extra):
    samples = SAMPLES[samples] if isinstance(samples, str) else samples
    batch_size = batch_size or BATCH_SIZES[processes]
    config = dataloader_config or {}
    batches = rounds(processes, batch_size, samples, extra.get("drop_last", False), config.get("split_batches", False))
    steps = extra.get("accumulation", 1)
    epochs = epochs_needed(batches, steps, extra.get("sync_with_dataloader", True), processes)
    each_batch = extra.pop("sync_each_batch", None)
    tied = extra.get("step_scheduler_with_optimizer", True)
    # A tied schedule advances by the number of processes at each update; both kinds end a little before training.
    total = optimizer_steps(processes) * (1 if config.get("split_batches") else processes) if tied else epochs * batches
    schedule = {
        "fixed": {"kind": "none"},
        "linear": {"kind": "linear", "warmup_steps": 3, "total_steps": total - 2},
        "cosine": {"kind": "cosine", "warmup_steps": 5, "total_steps": total - 1, "num_cycles": 0.5},
    }[scheduler]
    chosen = configuration(name, samples=samples, scheduler=schedule, **extra)
    chosen |= {"processes": processes, "batch_size": batch_size, "epochs": epochs, "scheduler": schedule}
    chosen |= {"dataloader_config": config}
    return chosen if each_batch is None else chosen | {"sync_each_batch": each_batch}


def _product(processes, clips, schedulers, ties, lasts):
    for accumulation, clip, scheduler, tied, last in itertools.product((1, 2, 3), clips, schedulers, ties, lasts):
        if scheduler == "fixed" and not tied:
            continue
        words = ["adamw", "float64", f"every{accumulation}", clip, scheduler, last] + ["untied"] * (not tied)
        yield several(
            "-".join(words),
            processes,
            accumulation=accumulation,
            clip=clip,
            scheduler=scheduler,
            step_scheduler_with_optimizer=tied,
            samples=last,
        )


def _special(processes):
    for optimizer in ("sgd", "momentum", "adam", "adam_amsgrad"):
        yield several(f"{optimizer}-float64", processes, optimizer=optimizer, accumulation=2, clip="norm")
    for precision in ("float32", "bf16"):
        yield several(f"adamw-{precision}", processes, precision=precision, accumulation=2, clip="norm")
        yield several(f"sgd-{precision}-untied", processes, precision=precision, optimizer="sgd", clip="value",
                      step_scheduler_with_optimizer=False, samples="even")
    yield several("classes-groups", processes, loss="cross_entropy", groups="groups", accumulation=2, clip="norm1")
    yield several("acrossepochs", processes, accumulation=3, sync_with_dataloader=False, clip="norm")
    yield several("drop-last", processes, samples="odd", drop_last=True, accumulation=2, clip="norm")
    # The same number of batches on each rank, the last one shorter on the last.
    yield several("ragged", processes, samples=23, dataloader_config={"even_batches": False}, accumulation=2, clip="norm")
    yield several("split-batches", processes, batch_size=8, dataloader_config={"split_batches": True},
                  accumulation=2, clip="norm", samples="odd")
    yield several("fewer-samples-than-a-round", processes, samples=3, accumulation=2, scheduler="linear", clip="norm",
                  optimizer="sgd")
    yield several("evaluation-inside", processes, accumulation=2, scheduler="linear", clip="norm", evaluate_every=2)
    yield several("frozen-parameters", processes, accumulation=2, clip="norm", frozen=["hidden.weight", "output.bias"])
    yield several("convolution", processes, models=["convolution"], loss="cross_entropy", accumulation=2, clip="norm")
    for accumulation in (1, 2):
        yield several(f"two-models-one-loss-every{accumulation}", processes, loop="two_models",
                      models=["encoder", "head"], accumulation=accumulation, clip="norm")
        yield several(f"adversarial-every{accumulation}", processes, loop="adversarial",
                      models=["generator", "discriminator"], loss="binary_cross_entropy", accumulation=accumulation,
                      scheduler="linear", clip="norm", optimizer="adam")


def _preparing(processes):
    yield several("adagrad-float64", processes, optimizer="adagrad", accumulation=2, clip="norm")
    yield several("tied", processes, models=["tied"], accumulation=2, clip="norm")
    yield several("two-optimizers", processes, loop="two_optimizers", models=["encoder", "head"], accumulation=2,
                  scheduler="linear", clip="norm")
    if processes > 2:
        return
    # Without a line search and tolerances the losses, which differ between the processes, decide nothing.
    yield several("closure-lbfgs", processes, loop="closure", optimizer="lbfgs", samples="even", batch_size=12,
                  scheduler="fixed")
    yield several("closure-adamw", processes, loop="closure", accumulation=2)
    for accumulation in (2, 3):
        yield several(f"sync-each-batch-every{accumulation}", processes, accumulation=accumulation, clip="norm",
                      sync_each_batch=True)
    yield several("sync-each-batch-convolution", processes, models=["convolution"], loss="cross_entropy", accumulation=2,
                  sync_each_batch=True)


def configurations(processes):
    if processes == 2:
        chosen = [*_product(2, ("noclip", "norm", "value"), ("cosine",), (True, False), ("uneven",)),
                  *_product(2, ("norm",), ("linear", "fixed"), (True, False), ("even", "odd")),
                  *_special(2)]
    else:
        chosen = [*_product(processes, ("norm",), ("cosine",), (True, False), ("odd",)), *_special(processes)]
    chosen += _preparing(processes)
    names = [configuration["name"] for configuration in chosen]
    if len(set(names)) != len(names):
        raise ValueError("two configurations share one name")
    return chosen
