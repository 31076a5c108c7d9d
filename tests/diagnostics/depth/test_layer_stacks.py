"""Stacks of layers found in models of many architectures and styles."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from normscope.diagnostics.depth.layer_stacks import Stack
from normscope.diagnostics.depth.profile import depth_profile
from normscope.diagnostics.depth.watch import watch_depth
from normscope.diagnostics.diagnosis import diagnose


def chosen(model: nn.Module, *inputs: Tensor) -> list[Stack]:
    with watch_depth(model) as watch:
        model(*inputs)
    return watch.stacks


def stacks(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    return {stack.name: len(stack.layers) for stack in chosen(model, *inputs)}


def test_a_list_of_layers() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False)
    assert stacks(nn.Sequential(nn.Embedding(9, 8), encoder, nn.Linear(8, 9)), torch.tensor([[1, 2]])) == {
        "1.layers": 5
    }


def test_encoder_and_decoder() -> None:
    x = torch.randn(2, 3, 8)
    assert stacks(nn.Transformer(8, 2, 3, 4, 16, batch_first=True), x, x) == {"encoder.layers": 3, "decoder.layers": 4}


def test_norms_and_what_has_no_parameters_are_no_layers() -> None:
    body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [name for name, _ in chosen(body, torch.randn(3, 8))[0].layers] == ["0", "3", "5"]


def test_layers_that_are_attributes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3)
            self.block1, self.block2, self.block3 = (nn.Sequential(nn.Conv2d(4, 4, 3)) for _ in range(3))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block3(self.block2(self.block1(self.stem(x)))).mean((2, 3)))

    assert stacks(Net(), torch.randn(2, 1, 12, 12)) == {"": 3}


def test_a_layer_that_is_shared_is_a_stack_of_its_calls() -> None:
    shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nn.Sequential(shared, shared, shared)
    assert stacks(model, torch.randn(3, 4)) == {"": 1}
    (profile,) = depth_profile(model, torch.randn(3, 4), lambda m, b: m(b).square().mean())
    assert [layer.call for layer in profile.layers] == [0, 1, 2]


def test_no_depth() -> None:
    assert stacks(nn.Linear(3, 3), torch.randn(2, 3)) == {}


class Gated(nn.Module):
    """Pre-LN as in LLaMA: four linear maps in attention, three in the perceptron."""

    def __init__(self, width: int, perceptron: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(width, 32), nn.Linear(width, 32), nn.Linear(32, width)
        self.perceptron = perceptron

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        scores = self.q_proj(y) @ self.k_proj(y).mT / y.shape[-1] ** 0.5
        x = x + self.o_proj(scores.softmax(-1) @ self.v_proj(y))
        y = self.norm2(x)
        if self.perceptron is not None:
            return x + self.perceptron(y)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Blocks over two embedding tables, with or without a final norm."""

    def __init__(self, layers: int, *, end: bool, deep: bool = False, head: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(9, 16)
        parts = [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)] if deep else None
        self.layers = nn.ModuleList(Gated(16, nn.Sequential(*parts) if parts else None) for _ in range(layers))
        self.norm = nn.RMSNorm(16) if end else nn.Identity()
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 20)) if head else nn.Linear(16, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    out = model(tokens)
    return nn.functional.cross_entropy(getattr(out, "logits", out).flatten(0, 1), tokens.flatten())


TOKENS = torch.arange(36).reshape(4, 9) % 20


@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("kind", ["gated", "deep", "head"])
def test_the_layers_are_the_stack_and_not_their_maps(layers: int, end: bool, kind: str) -> None:
    torch.manual_seed(0)
    model = Decoder(layers, end=end, deep=kind == "deep", head=kind == "head")
    told = diagnose(model, TOKENS, next_token)
    assert [(stack.name, len(stack.layers), stack.final_norm) for stack in told.stacks] == [("layers", layers, end)]
    assert [finding.name for finding in told.findings] == ([] if end else ["missing_final_norm"])


def test_the_maps_of_one_layer_are_no_depth() -> None:
    """Of seven maps three read another one; those that joined a stream before are not read again."""
    assert stacks(Gated(16), torch.randn(2, 3, 16)) == {}


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("end", [True, False])
def test_a_llama_of_somebody_else(layers: int, end: bool) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    if not end:
        model.model.norm = nn.Identity()
    told = diagnose(model, TOKENS, next_token)
    assert [(stack.name, len(stack.layers)) for stack in told.stacks] == [("model.layers", layers)]
    assert [finding.name for finding in told.findings] == ([] if end else ["missing_final_norm"])


def test_what_stands_side_by_side_is_no_depth() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.out = nn.ModuleList(nn.Linear(16, 2) for _ in range(8)), nn.Linear(16, 16)
            self.norm = nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return x + self.out(torch.cat([head(y) for head in self.heads], -1))

    x = torch.randn(3, 5, 16)
    assert stacks(Heads(), x) == {}
    assert stacks(nn.Sequential(Heads(), Heads(), Heads()), x) == {"": 3}
    # Without a graph, too.
    assert stacks(nn.Sequential(Heads(), Heads()).requires_grad_(False), x) == {"": 2}


def test_embeddings_that_are_added_are_no_depth() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.kinds = (nn.Embedding(20, 4) for _ in range(3))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.words(tokens) + self.places(tokens) + self.kinds(tokens)

    assert stacks(Sum(), TOKENS) == {}


def test_one_layer_of_a_list_that_is_called_again_and_again() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Gated(16)])

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(5):
                x = self.layers[0](x)
            return x

    (profile,) = depth_profile(Shared(), torch.randn(2, 3, 16), lambda m, b: m(b).square().mean())
    assert (profile.name, len(profile.layers)) == ("layers", 5)


def test_a_model_that_is_called_twice_has_its_stack_twice() -> None:
    model = nn.Sequential(Gated(16), Gated(16))
    x = torch.randn(2, 3, 16)
    (profile,) = depth_profile(model, x, lambda m, b: (m(b) - m(2 * b)).square().mean())
    assert (profile.name, len(profile.layers)) == ("", 4)


def test_recomputed_layers_are_counted_once() -> None:
    class Recomputing(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            for layer in self:
                input = checkpoint(layer, input, use_reentrant=False)  # pyright: ignore
            return input

    x = torch.randn(2, 3, 16, requires_grad=True)
    (profile,) = depth_profile(Recomputing(Gated(16), Gated(16), Gated(16)), x, lambda m, b: m(b).square().mean())
    assert [layer.name for layer in profile.layers] == ["0", "1", "2"]


def test_two_alternating_kinds_of_layers_are_one_stack() -> None:
    def block(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(*layers)

    class Other(nn.Sequential):
        pass

    parts = (nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    body = nn.Sequential(*(each for _ in range(2) for each in (block(*parts), Other(*parts))))
    assert stacks(body, torch.randn(2, 4)) == {"": 4}
    # A stem, a body and a head do not take turns.
    assert stacks(nn.Sequential(nn.Linear(4, 4), block(*parts), nn.Linear(4, 4)), torch.randn(2, 4)) == {"1": 2}


class Branch(nn.Module):
    """A residual branch; its subclasses are layers of other classes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Other(Branch):
    """A layer of another class."""


class NormWithActivation(nn.LayerNorm):
    """A norm that is known by its class and cannot be measured, with a part of its own."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.GELU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        ("BBBOOOO", [7]),
        ("BBBTOOOO", [3, 4]),
        ("BBOBOBB", [7]),
        ("BOBOBO", [6]),
        ("OBBBBO", [4]),
        ("LBBL", [2]),
        ("LBLBLBL", [3]),
        ("LLLBBL", [2]),
        ("NBBNBN", [3]),
        ("BO", []),
        ("BL", []),
        ("LLL", [3]),
        ("", []),
    ],
)
def test_layers_are_classes_that_repeat_however_they_are_held(layers: str, want: list[int]) -> None:
    torch.manual_seed(0)
    makers = {"B": Branch, "O": Other, "N": NormWithActivation, "L": lambda width: nn.Linear(width, width)}
    makers["T"] = lambda width: nn.Tanh()
    modules = [makers[kind](8) for kind in layers]
    x = torch.randn(5, 8)

    class InTurn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = nn.ModuleDict(
                {
                    f"of_{kind}": nn.ModuleList(m for k, m in zip(layers, modules, strict=True) if k == kind)
                    for kind in "LNOB"
                }
            )

        def forward(self, x: Tensor) -> Tensor:
            for module in modules:
                x = module(x)
            return x

    for model in (nn.Sequential(*modules), nn.Sequential(nn.Flatten(), nn.Sequential(*modules)), InTurn()):
        assert [len(stack.layers) for stack in chosen(model, x)] == want


def test_a_layer_that_runs_several_times_is_not_as_deep_as_its_parts_are_called() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.up, self.down = Branch(), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.branch(x) + self.down(self.up(x).relu())

    shared = Layer()
    (profile,) = depth_profile(nn.Sequential(*[shared] * 3), torch.randn(4, 8), lambda m, b: m(b).square().mean())
    assert [layer.name for layer in profile.layers] == ["0"] * 3
