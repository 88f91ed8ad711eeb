"""The data and the initial parameters that both sides train on.

Every value is a small integer over a power of two, so that float64, float32 and bfloat16 all hold it
exactly and both sides start from the same numbers whatever their precision.
"""

import torch
from torch import nn

SAMPLES = 28
DENOMINATOR = 64


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


class Convolution(nn.Module):
    """A convolution with running statistics: parameters of four dimensions and buffers.

    No bias before the normalisation: its true gradient is zero, and Adam would blow up the rounding noise.
    """

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.output = nn.Linear(27, 3)

    def forward(self, x):
        return self.output(torch.tanh(self.norm(self.convolution(x))).flatten(1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x):
        return torch.tanh(self.layer(x))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 8)
        self.output = nn.Linear(8, 1)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(x)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(torch.tanh(self.second(torch.tanh(self.first(x)))))


# Numbers are drawn by the place in this list: new models go to its end.
MODELS = {
    "mlp": Mlp,
    "convolution": Convolution,
    "encoder": Encoder,
    "head": Head,
    "generator": Generator,
    "discriminator": Discriminator,
    "tied": Tied,
}


def _numerators(stream, count, bound=30):
    """`count` integers in [-bound, bound] that look unrelated; pure integer arithmetic."""
    state = (stream * 2654435761 + 12345) % 2**32
    values = []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append((state >> 8) % (2 * bound + 1) - bound)
    return values


def _array(stream, shape, denominator=DENOMINATOR):
    count = 1
    for size in shape:
        count *= size
    return {"shape": list(shape), "denominator": denominator, "numerators": _numerators(stream, count)}


def document():
    models = {}
    for index, (name, kind) in enumerate(MODELS.items()):
        models[name] = {
            key: _array(100 * (index + 1) + position, tuple(value.shape))
            for position, (key, value) in enumerate(kind().named_parameters())
        }
    return {
        "inputs": _array(1, (SAMPLES, 6)),
        "images": _array(2, (SAMPLES, 1, 5, 5), 16),
        "targets": _array(3, (SAMPLES, 3), 8),
        "labels": [value % 3 for value in _numerators(4, SAMPLES)],
        "models": models,
    }


def tensor(array, dtype):
    values = torch.tensor(array["numerators"], dtype=torch.float64) / array["denominator"]
    return values.reshape(array["shape"]).to(dtype)


def build(problem, name, dtype):
    """A fresh model of that name holding the initial parameters."""
    model = MODELS[name]().to(dtype)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(tensor(problem["models"][name][key], dtype))
    return model
