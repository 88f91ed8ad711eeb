"""The short runs by which benchmarks/train and its peer are compared."""

TASKS = ("mlp", "conv", "resnet18", "bert", "gpt2", "llama1b")
PRECISIONS = ("no", "bf16")
LOSSES = 12


def flags(task, precision):
    # Without dropout: its masks are no matter of agreement.
    words = ["--task", task, "--tiny", "--mixed-precision", precision, "--no-shuffle", "--dropout", 0]
    return [str(word) for word in [*words, "--losses", LOSSES, "--warmup", LOSSES, "--steps", 6]]
