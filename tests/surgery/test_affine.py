"""Gain and bias are known by what they do, not by their names."""

import pytest
import torch
from torch import Tensor, nn

from normscope.inspection.probing import Affine
from normscope.norms import DyT, ScaleNorm
from normscope.surgery.transfer import affine_of
from support.foreign import OffsetRMSNorm, PlainRMSNorm


class Squash(nn.Module):
    """No norm that is known: a gain and a bias by other names, the gain in either convention."""

    def __init__(self, width: int, *, offset: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.shift, self.scale = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.ones(width))
        self.slope = nn.Parameter(torch.ones(1))
        self.offset, self.dtype = offset, dtype

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.dtype:
            raise NotImplementedError("one dtype only")
        return torch.atan(self.slope * x) * (self.scale + self.offset) + self.shift


class Bent(nn.Module):
    """Has a vector that is neither."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.weight)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.LayerNorm(6), Affine(weight="weight", bias="bias")),
        (nn.LayerNorm(6, elementwise_affine=False), Affine()),
        (DyT(6), Affine(weight="weight", bias="bias")),
        (ScaleNorm(6), Affine(weight="weight")),
        (PlainRMSNorm(6), Affine(weight="weight")),
        (OffsetRMSNorm(6), Affine(weight="weight", unit_offset=True)),
        (Squash(6), Affine(weight="scale", bias="shift")),
        (Squash(6, offset=True), Affine(weight="scale", bias="shift", unit_offset=True)),
        (Squash(6, dtype=torch.float32), Affine(weight="scale", bias="shift")),
        (Bent(6), Affine()),
        (nn.Linear(6, 6), Affine(bias="bias")),
    ],
)
def test_roles(module: nn.Module, found: Affine) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert affine_of(module, (6,)) == found
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())


def test_several_axes_and_what_does_not_run() -> None:
    class Fails(Squash):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("only elsewhere")

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x.sin() * self.weight

    assert affine_of(Flat(), (2, 3)) == Affine(weight="weight")
    assert affine_of(Fails(6), (6,)) == Affine()
