"""Norms without a module are heard where they are called, and modules that call them are not listed twice."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope import norms
from normscope.diagnostics.diagnosis import diagnose
from normscope.inspection.find import find_norms
from normscope.inspection.functional_calls import observed_functional_norms


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.rms_norm(F.layer_norm(self.linear(x), (6,)), (6,))


def test_calls_are_told_with_their_owner() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Bare(), nn.LayerNorm(6), norms.LayerNorm(6), nn.BatchNorm1d(6))
    with observed_functional_norms(model, find_norms(model)[0]) as told:
        model(torch.randn(4, 6))
    assert [(one.name, one.what) for one in told] == [("1", "functional.layer_norm"), ("1", "functional.rms_norm")]


def test_a_diagnosis_lists_them() -> None:
    told = diagnose(Bare(), torch.randn(4, 6), lambda m, b: m(b).square().mean())
    assert [one.what for one in told.unreached] == ["functional.layer_norm", "functional.rms_norm"]


def test_values_are_the_same() -> None:
    torch.manual_seed(0)
    model, x = Bare(), torch.randn(4, 6)
    with observed_functional_norms(model, []):
        inside = model(x)
    assert torch.equal(inside, model(x))


def test_a_compiled_model_is_left_alone() -> None:
    model = torch.compile(Bare(), backend="eager")
    with observed_functional_norms(model, []) as told:  # pyright: ignore
        model(torch.randn(4, 6))
    assert told == []
