"""The table of tasks of benchmarks/train/tasks.cpp: data and nets that agree with it number by number."""

import functools
import gzip
import pathlib
import typing

import models
import torch

DIGITS = pathlib.Path(__file__).resolve().parents[2] / "data" / "digits.csv.gz"
BATCHES = 64  # of noise in a pass
TINY_VOCABULARY = 96
TINY = {"vocabulary": TINY_VOCABULARY, "width": 32, "layers": 2, "heads": 4}


def noise(settings, *shape):
    count = BATCHES * settings.batch_size
    inputs = torch.randn(count, *shape)  # first, then the labels
    return inputs, torch.randint(0, 10, (count,))


def images(settings):
    side = 8 if settings.tiny else 32
    return noise(settings, 3, side, side)


def digits(settings):
    with gzip.open(DIGITS, "rt") as lines:
        rows = torch.tensor([[int(value) for value in line.split(",")] for line in lines])
    train = torch.arange(len(rows)) % 5 != 0
    return rows[train, :64].float().div(16).view(-1, 1, 8, 8), rows[train, 64]


def tokens(settings, vocabulary, length):
    return torch.randint(
        0, TINY_VOCABULARY if settings.tiny else vocabulary, (BATCHES * settings.batch_size, length)
    )


def text(settings, vocabulary):
    """Text whose next tokens are the labels."""
    drawn = tokens(settings, vocabulary, settings.length + 1)
    return drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def sentences(settings):
    drawn = tokens(settings, 30_522, settings.length)
    return drawn, torch.randint(0, 2, (BATCHES * settings.batch_size,))


def resnet18(settings, device):
    net = models.Resnet18(width=8 if settings.tiny else 64)
    return net.to(device, memory_format=torch.channels_last)


def gpt2(settings, device):
    shape = TINY if settings.tiny else {}
    positions = max(16 if settings.tiny else 1024, settings.length)
    return models.drawn(lambda: models.Gpt2(positions=positions, **shape), device, settings.seed)


def bert(settings, device):
    shape = TINY if settings.tiny else {}
    positions = max(16 if settings.tiny else 512, settings.length)
    dropout = 0.1 if settings.dropout is None else settings.dropout
    return models.drawn(lambda: models.Bert(positions=positions, dropout=dropout, **shape), device, settings.seed)


def llama(settings, device):
    shape = TINY | {"inner": 64, "pairs": 2} if settings.tiny else {}
    return models.drawn(lambda: models.Llama(positions=settings.length, **shape), device, settings.seed)


class Task(typing.NamedTuple):
    full: tuple  # batch size, length
    tiny: tuple
    learning_rate: float
    samples: typing.Callable  # settings -> inputs, labels
    net: typing.Callable  # settings, device -> module
    computes_loss: bool  # model(x, y) is the loss; else it is cross_entropy(model(x), y)


TASKS = {
    "mlp": Task((64, 0), (64, 0), 1e-3, lambda s: noise(s, 784), lambda s, d: models.Mlp(), False),
    "conv": Task((64, 0), (64, 0), 1e-3, lambda s: noise(s, 1, 8, 8), lambda s, d: models.Conv(), False),
    "digits": Task((64, 0), (64, 0), 1e-3, digits, lambda s, d: models.Conv(), False),
    "resnet18": Task((128, 0), (8, 0), 1e-3, images, resnet18, False),
    "bert": Task((16, 128), (4, 16), 5e-5, sentences, bert, True),
    "gpt2": Task((16, 1024), (4, 16), 3e-4, functools.partial(text, vocabulary=50_257), gpt2, True),
    "llama1b": Task((4, 2048), (4, 16), 1e-4, functools.partial(text, vocabulary=128_256), llama, True),
}
