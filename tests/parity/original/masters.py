"""A model of bfloat16 parameters whose float32 masters AdamW steps: the loop that users of `model.to(torch.bfloat16)` write
by hand around the original, and DeepSpeed's bf16 optimizer does."""

import torch

STEPS = 12
WIDTHS = (6, 8, 3)
ROWS = 5
OPTIONS = {"lr": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.1, "eps": 1e-8}


def numbers(seed, shape):
    """Exact in bfloat16 neither before nor after scaling: what is lost by rounding is a part of the test."""
    count = torch.Size(shape).numel()
    values = [(seed * seed * 29 + i * 83 + seed * i * 7) % 1031 - 515 for i in range(count)]
    return (torch.tensor(values, dtype=torch.float64) / 1024).to(torch.float32).reshape(shape)


def document():
    torch.set_num_threads(1)
    first, last = torch.nn.Linear(WIDTHS[0], WIDTHS[1]), torch.nn.Linear(WIDTHS[1], WIDTHS[2])
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(numbers(seed, parameter.shape))
    masters = [parameter.detach().clone() for parameter in model.parameters()]
    model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(masters, lr=OPTIONS["lr"], betas=OPTIONS["betas"], weight_decay=OPTIONS["weight_decay"],
                                  eps=OPTIONS["eps"])
    steps = []
    for step in range(STEPS):
        x, y = numbers(100 + step, (ROWS, WIDTHS[0])), numbers(200 + step, (ROWS, WIDTHS[2]))
        loss = torch.nn.functional.mse_loss(model(x.to(torch.bfloat16)).float(), y)
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        for master, gradient in zip(masters, gradients):
            master.grad = gradient.float()
        optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(model.parameters(), masters):
                parameter.copy_(master)
        steps.append({"loss": loss.item(), "gradients": flat(gradients)})
        model.zero_grad()
    return {"widths": list(WIDTHS), "rows": ROWS, "options": OPTIONS, "steps": steps, "masters": flat(masters),
            "parameters": flat(model.parameters())}


def flat(tensors):
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors]).tolist()
