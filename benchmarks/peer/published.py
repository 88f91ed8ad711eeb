"""The models that users of Accelerate train, from the package transformers, in the shapes of models.py."""

import torch
import transformers
from torch import nn


class LanguageModel(nn.Module):
    """model(tokens, next tokens) is the loss, as in models.py; theirs shifts the tokens itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens, labels):
        return self.net(input_ids=tokens, labels=tokens, use_cache=False).loss


class Classifier(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, tokens, labels):
        return self.net(input_ids=tokens, labels=labels).loss


def made(make, config, device):
    config._attn_implementation = "sdpa"
    with torch.device(device):
        return make(config)


def gpt2(settings, device):
    shape = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4} if settings.tiny else {"vocab_size": 50_304}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_positions=max(1024, settings.length), **dropout, **shape)
    return LanguageModel(made(transformers.GPT2LMHeadModel, config, device))


def bert(settings, device):
    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(num_labels=2, **(shape | {"intermediate_size": 64} if settings.tiny else {}))
    return Classifier(made(transformers.BertForSequenceClassification, config, device))


def llama(settings, device):
    tiny = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2}
    full = {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8}
    config = transformers.LlamaConfig(
        max_position_embeddings=settings.length, rope_theta=500_000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
        **(tiny if settings.tiny else full)
    )
    return LanguageModel(made(transformers.LlamaForCausalLM, config, device))


NETS = {"gpt2": gpt2, "bert": bert, "llama1b": llama}
