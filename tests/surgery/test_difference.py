"""What preserve=True says of the function covers small rows and features with small weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from normscope import norms
from normscope.surgery import SwapReport, swap
from support.foreign import AnnotatedLayerNorm


def preserved(old: nn.Module, to, kind: str) -> tuple[nn.Module, SwapReport]:
    """Swap the norm of a model that is the norm, with preserve=True."""
    model = nn.Sequential(old)
    return model, swap(model, kind, to, preserve=True)


def notes_on_rows(report: SwapReport) -> list[str]:
    return [note for note in report.notes if "the same function on rows" in note]


def rows(size: float, width: int = 32) -> Tensor:
    drawn = torch.randn(64, 5, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return size * drawn / drawn.square().mean(-1, keepdim=True).sqrt()


def apart(old: nn.Module, new: nn.Module, size: float) -> float:
    x = rows(size)
    if isinstance(old, nn.RMSNorm) and old.eps is None:
        old.eps = torch.finfo(torch.float32).eps
    before, after = (module.double()(x).detach() for module in (old, new))
    return float((after - before).abs().max() / before.abs().max())


class ByDeviation(nn.Module):
    """An RMS norm with eps outside the root."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps)


@pytest.mark.parametrize(
    ("old", "kind", "to", "meets"),
    [
        (nn.RMSNorm(32, eps=1e-6), "rms_norm", "scale_norm", 1e-3),
        (nn.RMSNorm(32, eps=1e-8), "rms_norm", "scale_norm", 1e-4),
        # Of float32, which is the dtype of the weight.
        (nn.RMSNorm(32), "rms_norm", "scale_norm", torch.finfo(torch.float32).eps ** 0.5),
        (nn.RMSNorm(32, eps=0.0), "rms_norm", "scale_norm(eps=1e-3)", 1e-3 / 32**0.5 / 2),
        (nn.RMSNorm(32, eps=1e-6), "rms_norm", lambda width: nn.RMSNorm(width, eps=1e-7), 1e-3),
        (nn.LayerNorm(32, eps=1e-6), "layer_norm", "layer_norm(eps=1e-7)", 1e-3),
        (nn.LayerNorm(32, eps=0.0), "layer_norm", "layer_norm(eps=1e-6)", 1e-3),
        (nn.LayerNorm(32, eps=1e-6, elementwise_affine=False), "layer_norm", "layer_norm_simple(eps=1e-9)", 1e-3),
        (norms.ScaleNorm(32, eps=1e-3), "scale_norm", lambda width: nn.RMSNorm(width, eps=1e-9), 1e-3 / 32**0.5 / 2),
        (ByDeviation(32), "rms_norm", lambda width: nn.RMSNorm(width, eps=0.0), 1e-6),
    ],
)
def test_a_note_says_from_which_size_on_the_function_is_the_same(old: nn.Module, kind: str, to, meets: float) -> None:
    if isinstance(old, norms.ScaleNorm):
        nn.init.constant_(old.weight, 32**0.5)
    model, report = preserved(old, to, kind)
    (one,) = report.replaced
    (note,) = notes_on_rows(report)
    assert one.difference <= 1e-5
    assert f"counts as much as the row ({meets:.2g})" in note
    assert f"differs by {one.difference_when_small:.2g} of" in note
    # Random rows of the same size, of which the largest entries are others.
    assert one.difference_when_small == pytest.approx(apart(old, model[0], meets), rel=0.5)
    (least,) = [float(word) for word in [note.split("square of ")[1].split()[0]]]
    for size in (least, 2 * least, 10 * least, 1.0):
        # The size in the note has two digits.
        assert apart(old, model[0], size) <= 1.5e-5, size
    assert apart(old, model[0], least / 4) > 1e-5


@pytest.mark.parametrize(
    ("old", "kind", "to"),
    [
        (nn.RMSNorm(32, eps=1e-6), "rms_norm", "rms_norm"),
        (nn.LayerNorm(32), "layer_norm", "layer_norm"),
        (nn.LayerNorm(32, elementwise_affine=False), "layer_norm", "layer_norm_simple"),
        (nn.RMSNorm(32, eps=0.0), "rms_norm", lambda width: nn.RMSNorm(width, eps=0.0)),
        (norms.DyT(32), "dyt", "dyt"),
        (norms.NoNorm(32), "none", nn.Identity),
    ],
)
def test_no_note_where_eps_is_the_same(old: nn.Module, kind: str, to) -> None:
    _, report = preserved(old, to, kind)
    assert notes_on_rows(report) == []
    assert report.replaced[0].difference_when_small < 1e-9


def test_a_larger_eps_is_another_function_on_usual_rows() -> None:
    with pytest.raises(ValueError, match="preserve=True wants the same function at the start"):
        preserved(nn.LayerNorm(32, eps=1e-5), "layer_norm(eps=1e-3)", "layer_norm")


def test_without_preserve_small_rows_are_measured_and_nothing_is_noted() -> None:
    report = swap(nn.Sequential(nn.RMSNorm(32, eps=1e-6)), "rms_norm", lambda width: nn.RMSNorm(width, eps=1e-7))
    # 1 / sqrt(2) and 1 / sqrt(1.1) of the rows.
    assert report.replaced[0].difference_when_small == pytest.approx((2 / 1.1) ** 0.5 - 1, rel=0.5)
    assert notes_on_rows(report) == []
    assert report.replaced[0].difference < 1e-5


class StoresWeightMinusOne(nn.Module):
    """An RMS norm of 1 + weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@pytest.mark.parametrize(("tiny", "same"), [(1.0, True), (0.1, True), (1e-5, False), (1e-9, False)])
def test_a_feature_with_a_tiny_weight_counts_as_any_other(tiny: float, same: bool) -> None:
    old = nn.RMSNorm(32, eps=1e-6)
    with torch.no_grad():
        old.weight[7] = tiny
    # tiny - 1 in float32 loses what is below 6e-8.
    if same:
        preserved(old, StoresWeightMinusOne, "rms_norm")
        return
    with pytest.raises(ValueError, match=r"of the largest output, .* of the largest in a feature"):
        preserved(old, StoresWeightMinusOne, "rms_norm")


def test_tiny_weights_everywhere_are_no_matter() -> None:
    old = nn.RMSNorm(32, eps=1e-6)
    nn.init.constant_(old.weight, 1e-7)
    model, report = preserved(old, "scale_norm", "rms_norm")
    assert report.replaced[0].difference <= 1e-5
    assert apart(old, model[0], 1.0) <= 1e-5


def test_features_on_axis_1_and_weights_that_are_zero() -> None:
    old = nn.GroupNorm(2, 6)
    with torch.no_grad():
        old.weight[2] = 0.0
    report = swap(nn.Sequential(nn.Identity(), old), "group_norm", "group_norm", preserve=True)
    assert report.replaced[0].difference < 1e-12


def test_eps_and_the_divisor_of_another_library() -> None:
    report = swap(nn.Sequential(AnnotatedLayerNorm(32)), "layer_norm", AnnotatedLayerNorm, preserve=True)
    assert notes_on_rows(report) == []
    assert math.isfinite(report.replaced[0].difference_when_small)


def test_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    swap(nn.Sequential(nn.LayerNorm(8)), "layer_norm", lambda width: nn.Dropout(0.5))
    assert torch.equal(torch.get_rng_state(), state)
