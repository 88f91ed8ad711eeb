"""Trains with the real Accelerator and records every micro-step."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DataLoaderConfiguration, GradientAccumulationPlugin
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from . import configurations
from . import problem as problems

DTYPES = {"float64": torch.float64, "float32": torch.float32}
EVALUATION_SAMPLES = 10


def fresh_accelerator(configuration):
    """The original keeps its state in the process; a trace starts without any."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=configuration["mixed_precision"],
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=configuration["gradient_accumulation_steps"],
            sync_with_dataloader=configuration["sync_with_dataloader"],
            adjust_scheduler=False,
            sync_each_batch=configuration.get("sync_each_batch", False),
        ),
        step_scheduler_with_optimizer=configuration["step_scheduler_with_optimizer"],
        dataloader_config=DataLoaderConfiguration(**configuration.get("dataloader_config", {})),
    )
    if "scaler" in configuration:
        # Left out on the CPU, where the original computes in full precision and does not say so.
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", **configuration["scaler"])
    return accelerator


def make_optimizer(description, named_parameters):
    options = {key: value for key, value in description.items() if key not in ("kind", "groups")}
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    named = dict(named_parameters)
    groups = [{"params": list(named.values())}]
    if "groups" in description:
        groups = []
        for group in description["groups"]:
            own = {key: value for key, value in group.items() if key != "parameters"}
            groups.append({"params": [named.pop(name) for name in group["parameters"]], **own})
        if named:
            raise ValueError(f"parameters in no group: {sorted(named)}")
    return getattr(torch.optim, description["kind"])(groups, **options)


def make_scheduler(description, optimizer):
    kind = description["kind"]
    if kind == "none":
        return None
    if kind == "constant":
        return get_constant_schedule_with_warmup(optimizer, description["warmup_steps"])
    if kind == "linear":
        return get_linear_schedule_with_warmup(optimizer, description["warmup_steps"], description["total_steps"])
    if kind == "cosine":
        return get_cosine_schedule_with_warmup(
            optimizer, description["warmup_steps"], description["total_steps"], description["num_cycles"]
        )
    raise ValueError(f"unknown schedule {kind!r}")


def make_loss(name):
    return {
        "mse": functional.mse_loss,
        "cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    }[name]


class Recording:
    """Columns over the micro-steps. Models, losses and optimizers go by their role."""

    def __init__(self, accelerator):
        self._accelerator = accelerator
        self._clipped = {}
        self._losses = {}
        self.columns = {"epoch": [], "batch": [], "sync_gradients": [], "step_was_skipped": []}
        self.losses, self.norms, self.initial_rates, self.rates = {}, {}, {}, {}

    def start(self, optimizers):
        self._optimizers = optimizers
        for role, optimizer in optimizers.items():
            self.initial_rates[role] = [group["lr"] for group in optimizer.param_groups]
            self.rates[role] = [[] for _ in optimizer.param_groups]

    def loss(self, role, value):
        self._losses[role] = value.item()

    def clip(self, configuration, role, parameters):
        """The guarded clipping of the recommended loop; records the norm where it gives one."""
        clip = configuration["clip"]
        if not self._accelerator.sync_gradients or clip["kind"] == "none":
            return
        if clip["kind"] == "value":
            self._accelerator.clip_grad_value_(parameters, clip["clip_value"])
            return
        norm = self._accelerator.clip_grad_norm_(parameters, clip["max_norm"], norm_type=float(clip["norm_type"]))
        self._clipped[role] = norm.item() if norm.isfinite() else "not finite"

    def end_step(self, epoch, batch):
        self.columns["epoch"].append(epoch)
        self.columns["batch"].append(batch)
        self.columns["sync_gradients"].append(self._accelerator.sync_gradients)
        self.columns["step_was_skipped"].append(self._accelerator.optimizer_step_was_skipped)
        if self._accelerator.scaler is not None:
            self.columns.setdefault("scale", []).append(self._accelerator.scaler.get_scale())
        for role, value in self._losses.items():
            self.losses.setdefault(role, []).append(value)
            self.norms.setdefault(role, []).append(self._clipped.get(role))
        self._losses, self._clipped = {}, {}
        for role, optimizer in self._optimizers.items():
            for rates, group in zip(self.rates[role], optimizer.param_groups, strict=True):
                rates.append(group["lr"])

    def document(self, configuration, models):
        document = {**self.columns, "losses": self.losses}
        if configuration["clip"]["kind"] == "norm":
            document["norms"] = self.norms
        document["initial_learning_rates"] = self.initial_rates
        document["learning_rates"] = self.rates
        document["final_state"] = {
            role: {
                key: value.flatten().tolist()
                for key, value in self._accelerator.unwrap_model(model).state_dict().items()
            }
            for role, model in models.items()
        }
        return document


def data(configuration, problem, dtype):
    kind = "images" if configuration["models"] == ["convolution"] else "inputs"
    inputs = problems.tensor(problem[kind], dtype)
    if configuration["loss"] == "cross_entropy":
        return inputs, torch.tensor(problem["labels"])
    return inputs, problems.tensor(problem["targets"], dtype)


def make_loader(configuration, tensors, samples, drop_last=False):
    return DataLoader(
        TensorDataset(*(tensor[:samples] for tensor in tensors)),
        batch_size=configuration["batch_size"],
        shuffle=False,
        drop_last=drop_last,
    )


def evaluate(accelerator, model, loader, loss_fn):
    """One pass over the held-out loader in the middle of training."""
    model.eval()
    losses, rows = [], 0
    with torch.no_grad():
        for x, y in loader:
            output, y = accelerator.gather_for_metrics((model(x), y))
            losses.append(loss_fn(output, y).item())
            rows += output.shape[0]
    model.train()
    return {"losses": losses, "rows": rows}


def supervised(configuration, problem):
    dtype = DTYPES[configuration["dtype"]]
    accelerator = fresh_accelerator(configuration)
    model = problems.build(problem, configuration["models"][0], dtype)
    for name in configuration["frozen"]:
        model.get_parameter(name).requires_grad_(False)
    optimizer = make_optimizer(configuration["optimizer"], model.named_parameters())
    scheduler = make_scheduler(configuration["scheduler"], optimizer)
    loss_fn = make_loss(configuration["loss"])
    tensors = data(configuration, problem, dtype)
    loader = make_loader(configuration, tensors, configuration["samples"], configuration["drop_last"])
    evaluation_loader = make_loader(configuration, tensors, EVALUATION_SAMPLES)
    model, optimizer, loader, evaluation_loader, scheduler = accelerator.prepare(
        model, optimizer, loader, evaluation_loader, scheduler
    )
    recording = Recording(accelerator)
    recording.start({"optimizer": optimizer})
    evaluations = []
    for epoch in range(configuration["epochs"]):
        for batch, (x, y) in enumerate(loader):
            with accelerator.accumulate(model):
                if configuration["loss_under_autocast"]:
                    with accelerator.autocast():
                        loss = loss_fn(model(x), y)
                else:
                    loss = loss_fn(model(x), y)
                recording.loss("loss", loss)
                accelerator.backward(loss)
                recording.clip(configuration, "loss", model.parameters())
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                optimizer.zero_grad()
            recording.end_step(epoch, batch)
            every = configuration["evaluate_every"]
            if every and (batch + 1) % every == 0:
                evaluations.append(evaluate(accelerator, model, evaluation_loader, loss_fn))
    document = recording.document(configuration, {"model": model})
    if evaluations:
        document["evaluations"] = evaluations
    return document


def two_models(configuration, problem):
    """An encoder and a head, prepared apart, with one loss and one optimizer."""
    dtype = DTYPES[configuration["dtype"]]
    accelerator = fresh_accelerator(configuration)
    encoder, head = (problems.build(problem, name, dtype) for name in configuration["models"])
    named = {f"{role}.{key}": value for role, m in (("encoder", encoder), ("head", head)) for key, value in m.named_parameters()}
    optimizer = make_optimizer(configuration["optimizer"], named)
    scheduler = make_scheduler(configuration["scheduler"], optimizer)
    loss_fn = make_loss(configuration["loss"])
    loader = make_loader(configuration, data(configuration, problem, dtype), configuration["samples"])
    encoder, head, optimizer, loader, scheduler = accelerator.prepare(encoder, head, optimizer, loader, scheduler)
    recording = Recording(accelerator)
    recording.start({"optimizer": optimizer})
    for epoch in range(configuration["epochs"]):
        for batch, (x, y) in enumerate(loader):
            with accelerator.accumulate(encoder, head):
                loss = loss_fn(head(encoder(x)), y)
                recording.loss("loss", loss)
                accelerator.backward(loss)
                recording.clip(configuration, "loss", [*encoder.parameters(), *head.parameters()])
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            recording.end_step(epoch, batch)
    return recording.document(configuration, {"encoder": encoder, "head": head})


def adversarial(configuration, problem):
    """Generator against discriminator: two optimizers, two schedules, two backwards in one window."""
    dtype = DTYPES[configuration["dtype"]]
    accelerator = fresh_accelerator(configuration)
    generator, discriminator = (problems.build(problem, name, dtype) for name in configuration["models"])
    generator_optimizer = make_optimizer(configuration["optimizer"], generator.named_parameters())
    discriminator_optimizer = make_optimizer(configuration["optimizer"], discriminator.named_parameters())
    generator_scheduler = make_scheduler(configuration["scheduler"], generator_optimizer)
    discriminator_scheduler = make_scheduler(configuration["scheduler"], discriminator_optimizer)
    loss_fn = make_loss(configuration["loss"])
    loader = make_loader(configuration, data(configuration, problem, dtype), configuration["samples"])
    (
        generator,
        discriminator,
        generator_optimizer,
        discriminator_optimizer,
        generator_scheduler,
        discriminator_scheduler,
        loader,
    ) = accelerator.prepare(
        generator,
        discriminator,
        generator_optimizer,
        discriminator_optimizer,
        generator_scheduler,
        discriminator_scheduler,
        loader,
    )
    recording = Recording(accelerator)
    recording.start({"generator": generator_optimizer, "discriminator": discriminator_optimizer})
    for epoch in range(configuration["epochs"]):
        for batch, (noise, real) in enumerate(loader):
            with accelerator.accumulate(generator, discriminator):
                fake = generator(noise)
                judged_real, judged_fake = discriminator(real), discriminator(fake.detach())
                loss = loss_fn(judged_real, torch.ones_like(judged_real)) + loss_fn(
                    judged_fake, torch.zeros_like(judged_fake)
                )
                recording.loss("discriminator", loss)
                accelerator.backward(loss)
                recording.clip(configuration, "discriminator", discriminator.parameters())
                discriminator_optimizer.step()
                discriminator_scheduler.step()
                judged_fake = discriminator(fake)
                loss = loss_fn(judged_fake, torch.ones_like(judged_fake))
                recording.loss("generator", loss)
                accelerator.backward(loss)
                recording.clip(configuration, "generator", generator.parameters())
                generator_optimizer.step()
                generator_scheduler.step()
                generator_optimizer.zero_grad()
                discriminator_optimizer.zero_grad()
            recording.end_step(epoch, batch)
    return recording.document(configuration, {"generator": generator, "discriminator": discriminator})


def closure(configuration, problem):
    """The optimizer computes loss and gradients itself; how often it did is recorded beside the loss it started from."""
    dtype = DTYPES[configuration["dtype"]]
    accelerator = fresh_accelerator(configuration)
    model = problems.build(problem, configuration["models"][0], dtype)
    optimizer = make_optimizer(configuration["optimizer"], model.named_parameters())
    scheduler = make_scheduler(configuration["scheduler"], optimizer)
    loss_fn = make_loss(configuration["loss"])
    loader = make_loader(configuration, data(configuration, problem, dtype), configuration["samples"])
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    recording = Recording(accelerator)
    recording.start({"optimizer": optimizer})
    for epoch in range(configuration["epochs"]):
        for batch, (x, y) in enumerate(loader):
            losses = []

            def loss_and_gradients(x=x, y=y, losses=losses):
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                accelerator.backward(loss)
                losses.append(loss.item())
                return loss

            with accelerator.accumulate(model):
                with torch.no_grad():
                    recording.loss("loss", loss_fn(model(x), y))
                optimizer.step(loss_and_gradients)
                recording.loss("calls", torch.tensor(float(len(losses))))
                if scheduler is not None:
                    scheduler.step()
            recording.end_step(epoch, batch)
    return recording.document(configuration, {"model": model})


def two_optimizers(configuration, problem):
    """An encoder and a head with an optimizer and a schedule each, and one loss."""
    dtype = DTYPES[configuration["dtype"]]
    accelerator = fresh_accelerator(configuration)
    models = [problems.build(problem, name, dtype) for name in configuration["models"]]
    optimizers = [make_optimizer(configuration["optimizer"], model.named_parameters()) for model in models]
    schedulers = [make_scheduler(configuration["scheduler"], optimizer) for optimizer in optimizers]
    loss_fn = make_loss(configuration["loss"])
    loader = make_loader(configuration, data(configuration, problem, dtype), configuration["samples"])
    encoder, head, *optimizers, loader = accelerator.prepare(*models, *optimizers, loader)
    schedulers = [accelerator.prepare(scheduler) for scheduler in schedulers]
    recording = Recording(accelerator)
    recording.start(dict(zip(("encoder", "head"), optimizers, strict=True)))
    for epoch in range(configuration["epochs"]):
        for batch, (x, y) in enumerate(loader):
            with accelerator.accumulate(encoder, head):
                loss = loss_fn(head(encoder(x)), y)
                recording.loss("loss", loss)
                accelerator.backward(loss)
                recording.clip(configuration, "loss", [*encoder.parameters(), *head.parameters()])
                for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            recording.end_step(epoch, batch)
    return recording.document(configuration, {"encoder": encoder, "head": head})


LOOPS = {
    "supervised": supervised,
    "two_models": two_models,
    "adversarial": adversarial,
    "closure": closure,
    "two_optimizers": two_optimizers,
}


def refuse_idle(configuration, document):
    """A trace that never does what its name says would prove nothing."""
    name = configuration["name"]
    steps = sum(document["sync_gradients"])
    expected = configurations.optimizer_steps(configuration.get("processes", 1))
    if steps < expected:
        raise ValueError(f"{name}: only {steps} optimizer steps, expected at least {expected}")
    if configuration["clip"]["kind"] == "norm":
        norms = [norm for column in document["norms"].values() for norm in column if isinstance(norm, float)]
        if max(norms) <= configuration["clip"]["max_norm"]:
            raise ValueError(f"{name}: clipping never bit: largest norm {max(norms)}")
    if "scaler" in configuration and not any(document["step_was_skipped"]):
        raise ValueError(f"{name}: no update was left out")
    if configuration["loop"] != "adversarial":
        column, batches = document["losses"]["loss"], document["batch"][-1] + 1
        first, last = sum(column[:batches]), sum(column[-batches:])
        if last >= first:
            raise ValueError(f"{name}: the loss did not fall: {first} in the first epoch, {last} in the last")


def trace(configuration, problem):
    torch.manual_seed(0)
    document = LOOPS[configuration["loop"]](configuration, problem)
    refuse_idle(configuration, document)
    return {"configuration": configuration, **document}
