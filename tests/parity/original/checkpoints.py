"""Files and state-dict keys as Python writes them."""

import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from . import problem as problems
from .traces import fresh_accelerator
from .gather import CONFIGURATION


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x):
        return self.attention(self.norm(x))


class Nested(nn.Module):
    """Containers, buffers and a bare parameter: everything that gives a key its shape."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([Block(4), Block(4)])
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.heads = nn.ModuleDict({"policy": nn.Linear(4, 2), "value": nn.Linear(4, 1)})
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("positions", torch.arange(6).reshape(2, 3))


class Weight(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x @ self.weight


class Tied(nn.Module):
    """One parameter under three names, another under two."""

    def __init__(self):
        super().__init__()
        shared = nn.Parameter(torch.ones(2, 2))
        self.encoder = Weight(shared)
        self.decoder = Weight(shared)
        self.bare = shared
        other = nn.Parameter(torch.zeros(3))
        self.zeta = Weight(other)
        self.alpha = Weight(other)


def describe(tensors):
    return {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in tensors.items()
    }


def saved_by_the_original(model):
    """The file `Accelerator.save_model` writes for `model`: its name, its bytes."""
    accelerator = fresh_accelerator(CONFIGURATION)
    model = accelerator.prepare(model)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_model(model, folder)
        written = sorted(path.name for path in Path(folder).iterdir())
        if written != ["model.safetensors"]:
            raise ValueError(f"save_model wrote {written}")
        path = Path(folder) / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata()
        return path.read_bytes(), describe(tensors), metadata


def keys_document():
    torch.manual_seed(0)
    model = Nested()
    _, tensors, metadata = saved_by_the_original(model)
    _, tied, _ = saved_by_the_original(Tied())
    return {
        "state_dict": describe(model.state_dict()),
        "parameters_in_order": [name for name, _ in model.named_parameters()],
        "file": {"tensors": tensors, "metadata": metadata},
        "tied_file": sorted(tied),
    }


def mlp_file(problem):
    """A model saved by the original, and what it answers: to be loaded and asked the same."""
    model = problems.build(problem, "mlp", torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(0.015625)
    blob, tensors, metadata = saved_by_the_original(model)
    with torch.no_grad():
        outputs = model(problems.tensor(problem["inputs"], torch.float32))
    return blob, {"tensors": tensors, "metadata": metadata, "outputs": outputs.tolist()}


def every_dtype():
    """One tensor of each kind a checkpoint may hold, with values every kind represents exactly."""
    values = [-2.5, -1.0, 0.0, 0.15625, 1.0, 96.0]
    integers = [-128, -1, 0, 1, 2, 127]
    tensors = {
        "float64": torch.tensor(values, dtype=torch.float64).reshape(2, 3),
        "float32": torch.tensor(values, dtype=torch.float32).reshape(3, 2),
        "float16": torch.tensor(values, dtype=torch.float16),
        "bfloat16": torch.tensor(values, dtype=torch.bfloat16).reshape(1, 6),
        "int64": torch.tensor([*integers, 2**53, -(2**53)], dtype=torch.int64),
        "int32": torch.tensor([*integers, 2**31 - 1, -(2**31)], dtype=torch.int32),
        "int16": torch.tensor([*integers, 2**15 - 1], dtype=torch.int16),
        "int8": torch.tensor(integers, dtype=torch.int8),
        "uint8": torch.tensor([0, 1, 127, 128, 255], dtype=torch.uint8),
        "bool": torch.tensor([[True, False], [False, True]]),
        "empty": torch.zeros((0, 3), dtype=torch.float32),
        "scalar": torch.tensor(0.75, dtype=torch.float32),
        "scalar_int64": torch.tensor(41, dtype=torch.int64),
    }
    blob = save(tensors, metadata={"format": "pt"})
    described = describe(tensors)
    for key, value in tensors.items():
        described[key]["values"] = value.flatten().tolist()
    return blob, {"metadata": {"format": "pt"}, "tensors": described}
