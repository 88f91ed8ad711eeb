"""The nets of benchmarks/train/models, with the same parameters in the same order."""

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(784, 256), nn.Linear(256, 256), nn.Linear(256, 10)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.classify = nn.Linear(512, 10)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.second(torch.relu(self.first(x)))), 2).flatten(1)
        return self.classify(x)


def drawn(make, device, seed):
    """The net made without values, then its parameters drawn on the device in their order, as draw.cpp does."""
    with torch.device("meta"):
        net = make()
    computed = {name: buffer for name, buffer in net.named_buffers() if not buffer.is_meta}
    net.to_empty(device=device)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(computed[name])
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(0 if name.endswith("bias") else 1)
    return net


def split_heads(rows, samples, heads):
    return rows.view(samples, -1, heads, rows.size(1) // heads).transpose(1, 2)


def join_heads(x):
    return x.transpose(1, 2).flatten(0, 1).flatten(1)


class Gpt2Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, samples):
        q, k, v = (split_heads(part, samples, self.heads) for part in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
        x = x + self.proj(join_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, vocabulary=50_304, positions=1024, width=768, layers=12, heads=12):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList(Gpt2Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens, labels):
        x = (self.wte(tokens) + self.wpe.weight[: tokens.size(1)]).flatten(0, 1)
        for block in self.h:
            x = block(x, tokens.size(0))
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits, labels.flatten())


class BertLayer(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.drop = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended, self.attended_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.intermediate, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x, samples):
        q, k, v = (split_heads(part(x), samples, self.heads) for part in (self.query, self.key, self.value))
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop if self.training else 0.0)
        y = self.attended_norm(F.dropout(self.attended(join_heads(heads)), self.drop, self.training) + x)
        return self.output_norm(F.dropout(self.output(F.gelu(self.intermediate(y))), self.drop, self.training) + y)


class Bert(nn.Module):
    def __init__(self, vocabulary=30_522, positions=512, width=768, layers=12, heads=12, classes=2, dropout=0.1):
        super().__init__()
        self.drop = dropout
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.token_types, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(width, heads, dropout) for _ in range(layers))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, tokens, labels):
        x = self.words(tokens) + self.positions.weight[: tokens.size(1)] + self.token_types.weight[0]
        x = F.dropout(self.norm(x.flatten(0, 1)), self.drop, self.training)
        for layer in self.layers:
            x = layer(x, tokens.size(0))
        pooled = torch.tanh(self.pooler(x.view(*tokens.shape, -1)[:, 0]))
        return F.cross_entropy(self.classifier(F.dropout(pooled, self.drop, self.training)), labels)


def turn(x, cosines, sines):
    first, second = x.chunk(2, dim=-1)
    length = x.size(-2)
    return x * cosines[:length].to(x.dtype) + torch.cat((-second, first), dim=-1) * sines[:length].to(x.dtype)


class LlamaLayer(nn.Module):
    def __init__(self, width, inner, heads, pairs):
        super().__init__()
        self.heads, self.pairs = heads, pairs
        linear = lambda rows, columns: nn.Linear(rows, columns, bias=False)
        self.input_norm = nn.RMSNorm(width, eps=1e-5)
        self.q, self.k, self.v = linear(width, width), *(linear(width, width // heads * pairs) for _ in range(2))
        self.o, self.post_norm = linear(width, width), nn.RMSNorm(width, eps=1e-5)
        self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x, samples, cosines, sines):
        y = self.input_norm(x)
        q = turn(split_heads(self.q(y), samples, self.heads), cosines, sines)
        k = turn(split_heads(self.k(y), samples, self.pairs), cosines, sines)
        v = split_heads(self.v(y), samples, self.pairs)
        x = x + self.o(join_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)))
        z = self.post_norm(x)
        return x + self.down(F.silu(self.gate(z)) * self.up(z))


class Llama(nn.Module):
    def __init__(
        self, vocabulary=128_256, positions=2048, width=2048, inner=8192, layers=16, heads=32, pairs=8
    ):
        super().__init__()
        dimensions = width // heads
        exponents = torch.arange(0, dimensions, 2, device="cpu").float() / dimensions
        angles = torch.outer(torch.arange(positions, device="cpu").float(), torch.pow(500_000.0, -exponents))
        self.register_buffer("cosines", torch.cat((angles, angles), dim=-1).cos(), persistent=False)
        self.register_buffer("sines", torch.cat((angles, angles), dim=-1).sin(), persistent=False)
        self.embed = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaLayer(width, inner, heads, pairs) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, tokens, labels):
        x = self.embed(tokens).flatten(0, 1)
        for layer in self.layers:
            x = layer(x, tokens.size(0), self.cosines, self.sines)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits, labels.flatten())


class ResnetBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1:
            shorter = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shorter, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Resnet18(nn.Module):
    def __init__(self, width=64, classes=10):
        super().__init__()
        stage = lambda inputs, outputs, stride: nn.Sequential(
            ResnetBlock(inputs, outputs, stride), ResnetBlock(outputs, outputs, 1)
        )
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2 = stage(width, width, 1), stage(width, 2 * width, 2)
        self.layer3, self.layer4 = stage(2 * width, 4 * width, 2), stage(4 * width, 8 * width, 2)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, inputs):
        x = torch.relu(self.bn1(self.conv1(inputs.contiguous(memory_format=torch.channels_last))))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))
