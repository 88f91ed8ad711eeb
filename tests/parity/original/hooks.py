"""Loss traces under each DDP communication hook, and under LocalSGD."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.local_sgd import LocalSGD
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DDPCommunicationHookType
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

STEPS = 14
EARLY = {"start_powerSGD_iter": 2}


def _numbers(shape, seed):
    """Multiples of 1/64 between -1/2 and 1/2, the same in both languages."""
    count = torch.Size(shape).numel()
    index = torch.arange(count, dtype=torch.int64)
    return ((((index + 1) * (37 + 2 * seed) + 11 * seed * seed) % 65 - 32).double() / 64).reshape(shape)


class Net(nn.Module):
    """Matrices of several shapes, two of them alike, one too small to compress; vectors."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(9, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.second(x))
        return self.last(torch.tanh(self.third(x)))


def _net(dtype):
    net = Net().to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(net.parameters()):
            parameter.copy_(_numbers(parameter.shape, seed + 1))
    return net


def _loss(model, rank, step, dtype):
    x = _numbers((4, 9), 50 + 7 * step + 3 * rank).to(dtype)
    y = _numbers((4, 2), 90 + 5 * step + 2 * rank).to(dtype)
    return (model(x) - y).pow(2).mean()


# One bucket each: with several the original may hang over Gloo, whose threads then wait for each other.
CASES = [
    {"comm_hook": "fp16"},
    {"comm_hook": "bf16"},
    {"comm_hook": "fp16", "comm_wrapper": "bf16"},
    {"comm_hook": "power_sgd"},
    {"comm_hook": "power_sgd", "comm_wrapper": "fp16"},
    {"comm_hook": "power_sgd", "comm_wrapper": "bf16"},
    {"comm_hook": "power_sgd", "comm_state_option": EARLY},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "matrix_approximation_rank": 2, "random_seed": 17}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "matrix_approximation_rank": 4}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "min_compression_rate": 0.25}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "orthogonalization_epsilon": 1e-3}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "batch_tensors_with_same_shape": True}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "use_error_feedback": False}},
    {"comm_hook": "power_sgd", "comm_state_option": {**EARLY, "warm_start": False}},
    {
        "comm_hook": "power_sgd",
        "comm_state_option": {"start_powerSGD_iter": 0, "use_error_feedback": False, "warm_start": False},
    },
    {"comm_hook": "power_sgd", "comm_state_option": EARLY, "dtype": "float32"},
    {"comm_hook": "batched_power_sgd"},
    {"comm_hook": "batched_power_sgd", "comm_state_option": EARLY},
    {"comm_hook": "batched_power_sgd", "comm_state_option": {**EARLY, "matrix_approximation_rank": 3}},
    {"comm_hook": "batched_power_sgd", "comm_state_option": {**EARLY, "use_error_feedback": False}},
    {"comm_hook": "batched_power_sgd", "comm_state_option": {**EARLY, "warm_start": False}},
]


def _of_one_matrix(matrices, epsilon=0):
    """The batched hook hands over a matrix without the dimension that `_orthogonalize` asserts, and fails."""
    _orthogonalize(matrices.unsqueeze(0) if matrices.dim() == 2 else matrices, epsilon)


_orthogonalize = powerSGD_hook._orthogonalize


def _fresh_accelerator(**arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **arguments)


def _hook_trace(case, rank):
    options = {key: value for key, value in case.items() if key != "dtype"}
    for key in {"comm_hook", "comm_wrapper"} & set(options):
        options[key] = DDPCommunicationHookType(options[key])  # a plain string is ignored
    dtype = getattr(torch, case.get("dtype", "float64"))
    accelerator = _fresh_accelerator(kwargs_handlers=[DistributedDataParallelKwargs(**options)])
    model = accelerator.prepare(_net(dtype))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5))
    losses = []
    for step in range(STEPS):
        loss = _loss(model, rank, step, dtype)
        losses.append(loss.item())
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return {**case, "losses": losses}


def hooks_document(rank):
    powerSGD_hook._orthogonalize = _of_one_matrix
    try:
        return {"cases": [_hook_trace(case, rank) for case in CASES]}
    finally:
        powerSGD_hook._orthogonalize = _orthogonalize


def local_sgd_document(rank):
    cases = []
    for every, enabled in ((3, True), (1, True), (20, True), (3, False)):
        accelerator = _fresh_accelerator()
        model = accelerator.prepare(_net(torch.float64))
        optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5))
        losses = []
        with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=every, enabled=enabled) as local:
            for step in range(STEPS):
                loss = _loss(model, rank, step, torch.float64)
                losses.append(loss.item())
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                local.step()
        losses.append(_loss(model, rank, STEPS, torch.float64).item())
        cases.append({"local_sgd_steps": every, "enabled": enabled, "losses": losses})
    return {"cases": cases}
