"""Ours and torch's transformer layers with the same weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

Pairs = list[tuple[nn.Parameter, nn.Parameter, slice]]
"""A parameter of ours, the peer's, and the rows of the peer's that it copies."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _attention(ours: nn.Module, peer: nn.MultiheadAttention) -> Pairs:
    width = peer.embed_dim
    rows = {"project": slice(None)}
    if hasattr(ours, "project_memory"):
        rows = {"project": slice(width), "project_memory": slice(width, None)}
    pairs: Pairs = []
    for name, part in rows.items():
        packed = getattr(ours, name)
        pairs += [(packed.weight, peer.in_proj_weight, part), (packed.bias, peer.in_proj_bias, part)]
    return [
        *pairs,
        (ours.output.weight, peer.out_proj.weight, slice(None)),
        (ours.output.bias, peer.out_proj.bias, slice(None)),
    ]


def _layer(blocks: list[nn.Module], peer: nn.Module) -> Pairs:
    attentions = [getattr(peer, name) for name in ("self_attn", "multihead_attn") if hasattr(peer, name)]
    feed = blocks[-1].branch
    pairs = [
        pair
        for block, attention in zip(blocks[:-1], attentions, strict=True)
        for pair in _attention(block.branch, attention)
    ]
    for linear, other in ((feed.inner, peer.linear1), (feed.outer, peer.linear2)):
        pairs += [(linear.weight, other.weight, slice(None)), (linear.bias, other.bias, slice(None))]
    for number, block in enumerate(blocks, start=1):
        norm = getattr(peer, f"norm{number}")
        pairs += [(block.norm.weight, norm.weight, slice(None)), (block.norm.bias, norm.bias, slice(None))]
    return pairs


@pytest.fixture
def copy_attention() -> Callable[[nn.Module, nn.MultiheadAttention], Pairs]:
    """Randomize a peer's attention, copy it into ours, and give the pairs of parameters."""

    def copy(ours: nn.Module, peer: nn.MultiheadAttention) -> Pairs:
        return _copy(_attention(ours, peer))

    return copy


@pytest.fixture
def copy_stack() -> Callable[[nn.Module, nn.Module], Pairs]:
    """Randomize torch's encoder or decoder, copy it into our stack, and give the pairs of parameters."""

    def copy(ours: nn.Module, peer: nn.Module) -> Pairs:
        blocks, size = list(ours.blocks), len(ours.blocks) // len(peer.layers)
        pairs = [
            pair
            for number, layer in enumerate(peer.layers)
            for pair in _layer(blocks[number * size : (number + 1) * size], layer)
        ]
        if peer.norm is not None:
            pairs.append((ours.final_norm.weight, peer.norm.weight, slice(None)))
            pairs.append((ours.final_norm.bias, peer.norm.bias, slice(None)))
        return _copy(pairs)

    return copy


@torch.no_grad()
def _copy(pairs: Pairs) -> Pairs:
    for _, theirs, _ in pairs:
        # Away from zero biases and gains of one, which hide what is left out.
        theirs.add_(0.3 * torch.randn_like(theirs))
    for ours, theirs, rows in pairs:
        ours.copy_(theirs[rows])
    return pairs


@pytest.fixture
def assert_same_gradients() -> Callable[[Pairs], None]:
    """Compare the gradients of every pair, in float64."""

    def check(pairs: Pairs) -> None:
        for ours, theirs, rows in pairs:
            assert ours.grad is not None
            assert theirs.grad is not None
            # float64 leaves 1e-16 a term; sums have under 1e4 terms of size under 1e2.
            torch.testing.assert_close(ours.grad, theirs.grad[rows], rtol=1e-10, atol=1e-10)

    return check


@pytest.fixture
def trains() -> Callable[[nn.Module, Callable[[], Tensor]], None]:
    """Check that a model learns one batch by heart, and takes a step under bfloat16 autocast."""

    def check(model: nn.Module, loss: Callable[[], Tensor]) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        first = loss().item()
        for _ in range(80):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
        assert value.item() < first / 10
        before = [parameter.clone() for parameter in model.parameters()]
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        # Query biases of a softmax over equal keys may stand still; nothing else may.
        moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
        assert all(moved)

    return check
