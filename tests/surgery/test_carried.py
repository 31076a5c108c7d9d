"""Gain and bias go along, in the convention of the new norm, with their ties, or are told as lost."""

import pytest
import torch
from torch import Tensor, nn

from normscope.norms import RMSNorm
from normscope.surgery import swap
from support.foreign import OffsetRMSNorm, PlainRMSNorm


class Column(nn.Module):
    """An RMS norm whose gain is [1, 1, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, 1, 6) + 0.5)
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Unknown(nn.Module):
    """Has a weight of the right size that is no gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight.exp()).sin()


def filled(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize("old", [RMSNorm(6, eps=1e-6), OffsetRMSNorm(6), PlainRMSNorm(6)])
@pytest.mark.parametrize("to", [OffsetRMSNorm, PlainRMSNorm])
def test_a_function_with_either_convention_gets_the_gain_in_its_own(old: nn.Module, to) -> None:
    model = nn.Sequential(filled(old))
    # Large, for the eps of the two differ.
    x = 100 * torch.randn(5, 6)
    want = model(x).detach()
    report = swap(model, "rms_norm", to)
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)
    (kept,) = [word for word in report.replaced[0].kept if word.startswith("weight")]
    same = isinstance(old, OffsetRMSNorm) == (to is OffsetRMSNorm)
    offset = isinstance(old, OffsetRMSNorm)
    assert (
        kept == "weight" if same else kept == f"weight (as a new parameter, {'1 + weight' if offset else 'weight - 1'})"
    )


def test_what_is_no_gain_stays_its_own() -> None:
    model = nn.Sequential(filled(nn.RMSNorm(6)))
    report = swap(model, "rms_norm", Unknown)
    assert torch.equal(model[0].weight, torch.zeros(6))
    assert "weight" in report.replaced[0].lost


@pytest.mark.parametrize("make", [lambda: OffsetRMSNorm(6), Column])
def test_ties_of_what_is_converted(make) -> None:
    model = nn.Sequential(make(), nn.Linear(6, 6), make())
    model[2].weight = model[0].weight
    report = swap(model, "rms_norm", "rms_norm")
    assert model[0].weight is model[2].weight
    assert all(one.lost == () for one in report.replaced)
    report.undo()
    assert model[0].weight is model[2].weight


def test_a_tie_with_what_stays_is_lost_and_told() -> None:
    model = nn.Sequential(OffsetRMSNorm(6), OffsetRMSNorm(6))
    model[1].weight = model[0].weight
    report = swap(model, "rms_norm", "rms_norm", where="0")
    assert report.replaced[0].lost == ("the tie of weight with what is not converted",)


def constants(kind: str) -> nn.LayerNorm:
    norm = nn.LayerNorm(6)
    gain, bias = torch.rand(6) * 4, torch.randn(6)
    del norm.weight, norm.bias
    for name, value in (("weight", gain), ("bias", bias)):
        if kind == "buffer":
            norm.register_buffer(name, value)
        else:
            setattr(norm, name, value)
    return norm


@pytest.mark.parametrize("kind", ["buffer", "plain"])
def test_a_gain_that_is_no_parameter(kind: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), constants(kind)).double()
    model[1].weight, model[1].bias = model[1].weight.double(), model[1].bias.double()
    keys, x = list(model.state_dict()), torch.randn(5, 6, dtype=torch.float64)
    want = model(x).detach()
    report = swap(model, "layer_norm", "layer_norm")
    torch.testing.assert_close(model(x), want, rtol=0, atol=1e-12)
    assert report.replaced[0].kept == ("eps", "weight (a constant)", "bias (a constant)")
    assert list(model.state_dict()) == keys
    assert list(model[1].parameters()) == []
    report.undo()
    torch.testing.assert_close(model(x), want, rtol=0, atol=0)


def test_a_constant_that_has_no_place_is_told() -> None:
    assert swap(nn.Sequential(constants("buffer")), "layer_norm", "rms_norm").replaced[0].lost == ("bias (a constant)",)
    report = swap(nn.Sequential(constants("buffer")), "layer_norm", "ada_norm")
    assert report.replaced[0].lost == ("weight (a constant)", "bias (a constant)")
    model = nn.Sequential(constants("buffer"))
    gain = model[0].weight
    swap(model, "layer_norm", OffsetRMSNorm)
    torch.testing.assert_close(model[0].weight, gain - 1)
    assert not isinstance(model[0].weight, nn.Parameter)


@pytest.mark.parametrize("to", ["dyt", "layer_norm", "scale_norm", "derf"])
def test_what_is_new_in_a_frozen_model_is_frozen(to: str) -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6, elementwise_affine=False), nn.RMSNorm(6))

    frozen = model().requires_grad_(False)
    swap(frozen, ["layer_norm", "rms_norm"], to)
    assert not any(p.requires_grad for p in frozen.parameters())
    trained = model()
    swap(trained, ["layer_norm", "rms_norm"], to)
    assert all(p.requires_grad for p in trained.parameters())
