"""The residual multi-layer perceptron."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from normscope.models import ResidualMLP
from normscope.placement import PLACEMENTS


def build(depth: int, placement: str) -> ResidualMLP:
    stack = partial(PLACEMENTS[placement].stack, norm=nn.LayerNorm)
    return ResidualMLP(inputs=5, width=6, depth=depth, classes=3, stack=stack)


def test_the_network_is_stem_stream_and_head() -> None:
    asked: list[tuple[list[str], int]] = []

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    def stack(branches: Sequence[tuple[str, nn.Module]], width: int) -> nn.Module:
        asked.append(([kind for kind, _ in branches], width))
        return Twice()

    model = ResidualMLP(inputs=5, width=6, depth=3, classes=2, stack=stack)
    assert asked == [(["feed_forward"] * 3, 6)]
    x = torch.randn(4, 5)
    assert torch.equal(model(x), model.head(2 * model.stem(x)))
    assert model(x).shape == (4, 2)


def test_branches_have_two_layers_with_relu_between() -> None:
    model = build(2, "none")
    x = torch.randn(4, 5)
    want = nn.functional.linear(x, model.stem.weight, model.stem.bias)
    for block in (0, 1):
        first, second = (model.get_submodule(f"stack.blocks.{block}.branch.{place}") for place in (0, 2))
        inner = want @ first.get_parameter("weight").T + first.get_parameter("bias")
        want = want + inner.clamp(min=0) @ second.get_parameter("weight").T + second.get_parameter("bias")
    want = want @ model.head.weight.T + model.head.bias
    # Six products of order one, two blocks deep, summed in another order.
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


def test_blocks_add_to_the_stream() -> None:
    model = build(2, "pre")
    for block in (0, 1):
        for parameter in model.get_submodule(f"stack.blocks.{block}.branch.2").parameters():
            nn.init.zeros_(parameter)
    x = torch.randn(4, 5)
    assert torch.equal(model(x), model.head(model.get_submodule("stack.final_norm")(model.stem(x))))


@pytest.mark.parametrize(
    ("placement", "stem", "final", "norms"),
    [("post", False, False, 3), ("pre", False, True, 4), ("output", False, True, 4), ("peri", True, True, 8)],
)
def test_stem_and_final_norms_exist_exactly_when_the_placement_has_them(
    placement: str, stem: bool, final: bool, norms: int
) -> None:
    model = build(3, placement)
    assert isinstance(model.get_submodule("stack.stem_norm"), nn.LayerNorm) is stem
    assert isinstance(model.get_submodule("stack.final_norm"), nn.LayerNorm) is final
    assert sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == norms
