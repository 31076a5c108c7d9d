"""Every block against its equation in float64, and against torch's encoder layer where that is equivalent."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from normscope.placement import (
    PLACEMENTS,
    DeepNorm,
    DualBlock,
    NormThenPlain,
    OutputNorm,
    PeriNorm,
    PlainBlock,
    PostNorm,
    PreNorm,
    RecursiveSkip,
    ReZero,
    ScaledPreNorm,
    Site,
)

WIDTH = 6
SITE = Site(kind="feed_forward", layer=3, layers=8)
ALPHA = 2.0
"""DeepNorm's for a stream of 8 layers: 16 to the power 1/4."""

# From x, the branch, and the norms in the order in which they were made.
EQUATIONS: dict[Callable[..., nn.Module], Callable[..., Tensor]] = {
    PlainBlock: lambda x, f: x + f(x),
    PostNorm: lambda x, f, n: n(x + f(x)),
    PreNorm: lambda x, f, n: x + f(n(x)),
    OutputNorm: lambda x, f, n: x + n(f(x)),
    PeriNorm: lambda x, f, n, m: x + m(f(n(x))),
    DeepNorm: lambda x, f, n: n(ALPHA * x + f(x)),
    ScaledPreNorm: lambda x, f, n: x + f(n(x) / math.sqrt(3)),
    RecursiveSkip: lambda x, f, n, m, o: o(x + m(x + n(x + f(x)))),
    NormThenPlain: lambda x, f, n: n(x) + f(n(x)),
}
ARGUMENTS = {DeepNorm: {"constants": "paper"}, RecursiveSkip: {"times": 3}}


class Norms:
    """Builds and records float64 layer norms, each with different weights and biases."""

    def __init__(self, seed: int = 0) -> None:
        self.made: list[nn.LayerNorm] = []
        self.source = torch.Generator().manual_seed(seed)

    def __call__(self, width: int) -> nn.Module:
        norm = nn.LayerNorm(width, dtype=torch.float64)
        with torch.no_grad():
            norm.weight.normal_(2.0, 0.5, generator=self.source)
            norm.bias.normal_(0.0, 0.5, generator=self.source)
        self.made.append(norm)
        return norm

    def functions(self) -> list[Callable[[Tensor], Tensor]]:
        return [
            lambda t, norm=norm: layer_norm(t, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            for norm in self.made
        ]


def branch() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 9), nn.Tanh(), nn.Linear(9, WIDTH)).double()


def rows(*shape: int, seed: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, WIDTH, dtype=torch.float64, generator=source).requires_grad_()


@pytest.mark.parametrize("block", EQUATIONS, ids=lambda block: block.__name__)
def test_block_is_its_equation(block: Callable[..., nn.Module]) -> None:
    torch.manual_seed(2)
    norms, inner, x = Norms(), branch(), rows(2, 3)
    made = block(inner, WIDTH, norms, SITE, **ARGUMENTS.get(block, {}))
    want = EQUATIONS[block](x, inner, *norms.functions())
    found = made(x)
    # Float64, values of order ten: only the order of two multiplications may differ.
    torch.testing.assert_close(found, want, rtol=0, atol=1e-13)
    upstream = rows(2, 3, seed=3).detach()
    parameters = [x, *made.parameters()]
    assert len(parameters) == 1 + 4 + 2 * len(norms.made)
    for ours, theirs in zip(
        torch.autograd.grad(found, parameters, upstream), torch.autograd.grad(want, parameters, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_dual_block_gives_both_what_is_next_and_what_was_added() -> None:
    norms, inner, x = Norms(), branch(), rows(4)
    state, change = DualBlock(inner, WIDTH, norms, SITE)(x)
    (n,) = norms.functions()
    assert torch.equal(change, inner(x))
    assert torch.equal(state, n(x + inner(x)))


def test_rezero_begins_as_the_identity_and_learns_its_number() -> None:
    norms, inner, x = Norms(), branch(), rows(4)
    block = ReZero(inner, WIDTH, norms, SITE).double()
    assert norms.made == []
    assert torch.equal(block(x), x)
    assert block.scale.shape == ()
    upstream = rows(4, seed=3).detach()
    (slope,) = torch.autograd.grad(block(x), block.scale, upstream)
    # A sum of 24 products of order one, which may cancel.
    torch.testing.assert_close(slope, (upstream * inner(x)).sum(), rtol=0, atol=1e-13)
    with torch.no_grad():
        block.scale.fill_(0.7)
    torch.testing.assert_close(block(x), x + 0.7 * inner(x), rtol=0, atol=1e-14)
    block.reset_parameters()
    assert block.scale.item() == 0.0


@pytest.mark.parametrize(("layer", "factor"), [(1, 1.0), (4, 0.5), (16, 0.25)])
def test_deep_layers_are_scaled_by_their_number(layer: int, factor: float) -> None:
    norms, x = Norms(), rows(4)
    block = ScaledPreNorm(nn.Identity(), WIDTH, norms, Site(kind="attention", layer=layer, layers=20))
    (n,) = norms.functions()
    torch.testing.assert_close(block(x), x + factor * n(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("part", "alpha"), [("only", 2.0), ("encoder", 0.81 * 2.0), ("decoder", 24.0**0.25)])
def test_deepnorm_takes_the_alpha_of_its_stream(part: str, alpha: float) -> None:
    # The encoder's: (8^4 * 16)^(1/16) = 2^(16/16).
    site = Site(kind="attention", layer=1, layers=8, part=part, other_layers=16)
    block = DeepNorm(nn.Identity(), WIDTH, nn.LayerNorm, site, constants="paper")
    assert block.alpha == pytest.approx(alpha, rel=1e-12)


def test_one_recursion_is_the_post_norm() -> None:
    norms, inner, x = Norms(), branch(), rows(4)
    once = RecursiveSkip(inner, WIDTH, norms, SITE, times=1)
    (n,) = norms.functions()
    assert torch.equal(once(x), n(x + inner(x)))
    with pytest.raises(TypeError, match="times"):
        RecursiveSkip(inner, WIDTH, norms, SITE)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("block", [*EQUATIONS, ReZero, DualBlock], ids=lambda block: block.__name__)
def test_the_context_goes_to_the_branch_as_it_is(block: Callable[..., nn.Module]) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor, *context: object) -> Tensor:
            seen.append(context)
            return 0.5 * x

    seen: list[tuple[object, ...]] = []
    made = block(Branch(), WIDTH, Norms(), SITE, **ARGUMENTS.get(block, {})).double()
    mask = object()
    made(rows(2), mask, 7)
    made(rows(2))
    assert seen == [(mask, 7), ()]


@pytest.mark.parametrize(("name", "first"), [("pre", True), ("post", False)])
def test_blocks_equal_torch_encoder_layer(name: str, first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=first)
    attention = layer.self_attn

    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return attention(x, x, x, need_weights=False)[0]

    branches = [
        ("attention", Attention()),
        ("feed_forward", nn.Sequential(layer.linear1, nn.ReLU(), layer.linear2)),
    ]
    ours = PLACEMENTS[name].stack(branches, 8, nn.LayerNorm)
    assert isinstance(ours.blocks, nn.ModuleList)
    for block, norm in zip(ours.blocks, (layer.norm1, layer.norm2), strict=True):
        with torch.no_grad():
            norm.weight.normal_(2.0, 0.5)
            norm.bias.normal_()
        block.get_submodule("norm").load_state_dict(norm.state_dict())
    x = torch.randn(2, 5, 8)
    want = layer(x)
    if first:
        want = layer_norm(want, (8,))
    torch.testing.assert_close(ours(x), want, rtol=1e-5, atol=1e-5)
