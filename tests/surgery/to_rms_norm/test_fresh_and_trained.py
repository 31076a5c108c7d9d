"""A model gets the same answer at its start and after steps of training: it does not depend on a bias that is zero."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import normscope
from support.architectures import ARCHITECTURES, IDS, PIXELS

_SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def bloom(**settings: Any) -> nn.Module:
    """Make BLOOM: a layer norm of the embeddings starts the stream."""
    return transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4, **settings)
    )


def opt(**settings: Any) -> nn.Module:
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(**_SIZES, ffn_dim=48, max_position_embeddings=32, word_embed_proj_dim=32, **settings)
    )


def neox(**settings: Any) -> nn.Module:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**_SIZES, intermediate_size=48, **settings))


class Blocks(nn.Module):
    """Two residual blocks between an embedding and a head, put together by a function."""

    def __init__(self, block: Callable[["Blocks", int, Tensor], Tensor], start: Callable[["Blocks"], None]) -> None:
        super().__init__()
        self.block, self.embed = block, nn.Embedding(99, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4 if block is sandwich_norm else 2))
        self.last = nn.Identity() if block is post_norm else nn.LayerNorm(32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.batch_norm = nn.BatchNorm1d(32)
        self.gates = nn.ParameterList(nn.Parameter(torch.ones(32)) for _ in range(2))
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(2))
        self.head = nn.Linear(32, 5)
        start(self)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in range(2):
            x = self.block(self, layer, x)
        return self.head(self.last(x))


def pre_norm(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return x + model.layers[layer](model.norms[layer](x))


def post_norm(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return model.norms[layer](x + model.layers[layer](x))


def sandwich_norm(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return x + model.norms[2 + layer](model.layers[layer](model.norms[layer](x)))


def residual_behind_the_norm(model: Blocks, layer: int, x: Tensor) -> Tensor:
    h = model.norms[layer](x)
    return h + model.layers[layer](h)


def layer_scale(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return x + model.gates[layer] * model.layers[layer](model.norms[layer](x))


def rezero(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return x + model.scales[layer] * model.layers[layer](model.norms[layer](x)).tanh()


def batch_norm_of_the_stream(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return x + model.layers[layer](model.batch_norm(model.norms[layer](x).transpose(1, 2)).transpose(1, 2))


def batch_norm_on_the_stream(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return model.batch_norm(pre_norm(model, layer, x).transpose(1, 2)).transpose(1, 2)


def reads_the_stream(model: Blocks, layer: int, x: Tensor) -> Tensor:
    return pre_norm(model, layer, x) + model.layers[1 - layer](F.gelu(model.gates[0] * x.mean(-1, keepdim=True)))


def as_it_is(model: Blocks) -> None:
    """Leave the values with which torch starts."""


def zero_head(model: Blocks) -> None:
    nn.init.zeros_(model.head.weight)


def zero_writers(model: Blocks) -> None:
    for layer in model.layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def built(block: Any, start: Any = as_it_is) -> Callable[[], nn.Module]:
    return lambda: Blocks(block, start)


MODELS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "pre": (built(pre_norm), True),
    "pre, zero head": (built(pre_norm, zero_head), True),
    "pre, zero writers": (built(pre_norm, zero_writers), True),
    "batch norm in a branch": (built(batch_norm_of_the_stream), True),
    "post": (built(post_norm), False),
    "sandwich": (built(sandwich_norm), False),
    "sandwich, zero head": (built(sandwich_norm, zero_head), False),
    "residual behind the norm": (built(residual_behind_the_norm), False),
    "layer scale": (built(layer_scale), False),
    "rezero": (built(rezero), False),
    "batch norm on the stream": (built(batch_norm_on_the_stream), False),
    "reads the stream": (built(reads_the_stream), False),
    "reads the stream, zero writers": (built(reads_the_stream, zero_writers), False),
    "bloom": (bloom, False),
    "bloom, residual behind the norm": (lambda: bloom(apply_residual_connection_post_layernorm=True), False),
    "bert": (ARCHITECTURES["bert"].build, False),
    "gpt2": (ARCHITECTURES["gpt2"].build, True),
    "vit": (ARCHITECTURES["vit"].build, True),
    "opt": (opt, True),
    "opt, post": (lambda: opt(do_layer_norm_before=False), False),
    "neox": (neox, True),
    "neox, sequential": (lambda: neox(use_parallel_residual=False), True),
}
"""How to build them, and whether they can be converted."""


def train(model: nn.Module, inputs: dict[str, Tensor], steps: int) -> None:
    """Take steps of AdamW towards random targets."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.train()
    for _ in range(steps):
        given: Any = model(**inputs)
        scores = given if isinstance(given, Tensor) else given.logits
        optimizer.zero_grad()
        F.mse_loss(scores, torch.randn_like(scores)).backward()
        optimizer.step()


def answer(model: nn.Module, inputs: dict[str, Tensor]) -> object:
    """Convert a model; return what was centered, or the refusal without its numbers."""
    try:
        report = normscope.to_rms_norm(model, **inputs)
    except ValueError as error:
        return str(error).partition("What these read")[2].partition(". In it")[0]
    assert report.difference < 1e-13
    return report.norms, report.centered, report.untied, report.same_in_training


@pytest.mark.parametrize("name", MODELS)
def test_the_answer_is_the_same(name: str) -> None:
    build, convertible = MODELS[name]
    inputs = {"pixel_values": PIXELS} if name == "vit" else {"input_ids": IDS}
    answers = []
    for steps in (0, 1, 5):
        torch.manual_seed(0)
        model = build()
        train(model, inputs, steps)
        answers.append(answer(model, inputs))
    assert answers[0] == answers[1] == answers[2]
    assert isinstance(answers[0], tuple) == convertible
