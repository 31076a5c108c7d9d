"""Residual streams against their equations, from modules that are not placements."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.placement import PLACEMENTS, DualStack, ResidualStack


class Times(nn.Module):
    """A branch that multiplies by a number, and records its further arguments."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.context: tuple[Any, ...] = ()

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        self.context = context
        return self.factor * x


class Add(nn.Module):
    """A stand-in for a norm that adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x + self.number


class Dual(nn.Module):
    """A block of two streams: the next state and the change."""

    def __init__(self, factor: float, number: float) -> None:
        super().__init__()
        self.factor, self.number = factor, number

    def forward(self, x: Tensor, *context: Any) -> tuple[Tensor, Tensor]:
        change = self.factor * x
        return x + change + self.number, change


def test_the_blocks_stand_between_the_norms_of_stem_and_end() -> None:
    blocks = nn.ModuleList([Times(2.0), Times(5.0)])
    stack = ResidualStack(Add(1.0), blocks, Add(100.0))
    # 3, then 4, 8, 40, 140.
    assert stack(torch.tensor([3.0]), "mask", 4).tolist() == [140.0]
    assert all(block.context == ("mask", 4) for block in blocks)
    assert list(dict(stack.named_children())) == ["stem_norm", "blocks", "final_norm"]


def test_two_streams_by_hand() -> None:
    stack = DualStack(Add(1.0), nn.ModuleList([Dual(2.0, 10.0), Dual(0.5, 20.0)]), Add(1000.0))
    # Both begin as 4; x: 4 + 8 + 10 = 22, then 22 + 11 + 20 = 53; s: 4 + 8 + 11 = 23; 53 + (23 + 1000).
    assert stack(torch.tensor([3.0])).tolist() == [1076.0]


@pytest.mark.parametrize("stream", [ResidualStack, DualStack])
def test_without_norms_at_the_ends_nothing_is_added(stream: type[nn.Module]) -> None:
    blocks = nn.ModuleList([Dual(2.0, 0.0) if stream is DualStack else Times(3.0)])
    x = torch.tensor([1.5, -2.0])
    found = stream(nn.Identity(), blocks, nn.Identity())(x)
    # The dual stream gives both of its halves, which are equal here.
    assert torch.equal(found, (6.0 if stream is DualStack else 3.0) * x)


def test_residual_dual_is_equations_6_to_8_of_its_paper() -> None:
    torch.manual_seed(0)
    branches = [nn.Linear(5, 5).double() for _ in range(3)]
    norms: list[nn.LayerNorm] = []

    def norm(width: int) -> nn.Module:
        made = nn.LayerNorm(width, dtype=torch.float64)
        nn.init.normal_(made.weight, 2.0, 0.5)
        nn.init.normal_(made.bias)
        norms.append(made)
        return made

    stack = PLACEMENTS["residual_dual"].stack([("feed_forward", branch) for branch in branches], 5, norm)
    x = torch.randn(4, 5, dtype=torch.float64)
    post = total = x
    for branch, made in zip(branches, norms, strict=False):
        change = branch(post)
        total = total + change
        post = made(post + change)
    assert len(norms) == 4
    torch.testing.assert_close(stack(x), post + norms[3](total), rtol=0, atol=1e-13)
