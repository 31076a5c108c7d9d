"""An old norm comes back with its values, to where the model is now."""

import pytest
import torch
from torch import nn

from normscope.surgery import swap


def mixed() -> nn.Sequential:
    """Make the usual mix: a narrow model with norms in float32."""
    return nn.Sequential(nn.Linear(6, 6).bfloat16(), nn.LayerNorm(6), nn.Linear(6, 2).bfloat16())


@pytest.mark.parametrize("to", ["rms_norm", "ada_norm"])
def test_another_device_is_no_other_dtype(to: str) -> None:
    model = mixed()
    report = swap(model, "layer_norm", to)
    model.to("meta")
    report.undo()
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert (model[0].weight.dtype, model[1].weight.dtype, model[1].bias.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


@pytest.mark.parametrize("to", ["rms_norm", "ada_norm"])
def test_another_dtype_is_followed(to: str) -> None:
    model = mixed()
    report = swap(model, "layer_norm", to)
    model.double()
    report.undo()
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_from_no_numbers_to_numbers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    report = swap(model, "layer_norm", "rms_norm")
    model.to_empty(device="cpu")
    gain = model[1].weight
    with torch.no_grad():
        gain.fill_(3.0)
    report.undo()
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    # What both have was filled; what only the old one has never had a number.
    assert model[1].weight is gain
    assert model[1].weight.tolist() == [3.0] * 6
    assert model[1].bias.isnan().all()


@pytest.mark.parametrize("to", ["rms_norm", "ada_norm"])
def test_what_was_frozen_meanwhile_is_frozen(to: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    report = swap(model, "layer_norm", to)
    model.requires_grad_(False)
    report.undo()
    assert not any(p.requires_grad for p in model.parameters())
    report = swap(model, "layer_norm", to)
    model.requires_grad_(True)
    report.undo()
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_partly_frozen_before_is_so_again() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    model[1].bias.requires_grad_(False)
    swap(model, "layer_norm", "ada_norm").undo()
    assert [p.requires_grad for p in model[1].parameters()] == [True, False]


def test_what_is_trained_stays_so_when_nothing_else_is() -> None:
    # Norms alone are tuned: between the two swaps' undoing nothing of the model is trained.
    model = nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.LayerNorm(6), nn.LayerNorm(6))
    first, second = (swap(model, "layer_norm", "ada_norm", where=place) for place in ("1", "2"))
    first.undo()
    second.undo()
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
