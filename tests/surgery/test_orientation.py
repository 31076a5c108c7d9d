"""A norm of channels stands on the axis of the channels, in convolutional networks and in transformers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope import norms
from normscope.inspection import find_norms
from normscope.norms import ChannelsFirst
from normscope.surgery import swap
from normscope.surgery.orientation import has_features_first

WIDTH = 8
# Float32 sums of at most two thousand terms of order one, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PLACES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch": (lambda: nn.BatchNorm2d(WIDTH), "batch_norm"),
    "group": (lambda: nn.GroupNorm(2, WIDTH), "group_norm"),
    "instance": (lambda: nn.InstanceNorm2d(WIDTH, affine=True), "instance_norm"),
    "layer": (lambda: LayerNorm2d(WIDTH), "layer_norm"),
    "wrapped": (lambda: ChannelsFirst(norms.RMSNorm(WIDTH)), "rms_norm"),
}
"""Norms with their features on axis 1."""


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over axis 1, as in ConvNeXt."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNorm1d(nn.LayerNorm):
    """A layer norm over axis 1 of three, as in SqueezeBERT: four axes are an error."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x.permute(0, 2, 1)).permute(0, 2, 1)


class LayerNormAct2d(LayerNorm2d):
    """The same with an activation, as in timm: a subclass of torch's layer norm that does something else, too."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x).relu()


class FrozenBatchNorm2d(nn.Module):
    """Four constants per channel, as in torchvision's detection models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.linspace(0.5, 1.5, width))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        return (x - mean) * weight / (variance + 1e-5).sqrt() + bias


class Scaled2d(nn.Module):
    """An activation with a learned slope for every channel of a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.rand(1, width, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * x)


def grouped(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


TARGETS: dict[str, Any] = {
    "GroupNorm by a function": grouped,
    "GroupNorm by a partial": partial(nn.GroupNorm, 2),
    "GroupNorm without weights": lambda width: nn.GroupNorm(4, width, affine=False),
    "InstanceNorm": nn.InstanceNorm2d,
    "InstanceNorm with weights": partial(nn.InstanceNorm2d, affine=True),
    "InstanceNorm with moments": partial(nn.InstanceNorm2d, track_running_stats=True),
    "BatchNorm": nn.BatchNorm2d,
    "BatchNorm with another momentum": partial(nn.BatchNorm2d, momentum=0.5, eps=0.1),
    "SyncBatchNorm": nn.SyncBatchNorm,
    "LocalResponseNorm": lambda width: nn.LocalResponseNorm(3),
    "LayerNorm2d": LayerNorm2d,
    "LayerNormAct2d": LayerNormAct2d,
    "FrozenBatchNorm2d": FrozenBatchNorm2d,
    "Scaled2d": Scaled2d,
}


def after(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).detach()


# The channels of the last one are as many as its rows and columns: nothing but the axis tells them apart.
@pytest.mark.parametrize("size", [(5, 6), (WIDTH, WIDTH)])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", TARGETS)
def test_a_norm_of_maps_is_put_where_maps_are(to: str, place: str, size: tuple[int, int]) -> None:
    make, kind = PLACES[place]
    conv, x = nn.Conv2d(3, WIDTH, 3, padding=1), torch.randn(4, 3, *size)
    model = nn.Sequential(conv, make())
    # Synchronized moments in training need a GPU.
    model.train(to != "SyncBatchNorm")
    torch.manual_seed(1)
    report = swap(model, kind, TARGETS[to])
    torch.manual_seed(1)
    alone = TARGETS[to](WIDTH).train(model.training)
    assert type(model[1]) is type(alone)
    assert [one.name for one in report.replaced] == ["1"]
    assert torch.equal(after(model, x), after(alone, conv(x)))
    report.undo()
    assert type(model[1]) is type(make())


@pytest.mark.parametrize("to", ["group_norm(num_groups=4)", "instance_norm", "batch_norm"])
@pytest.mark.parametrize("place", PLACES)
def test_a_key_stands_on_the_channels_too(place: str, to: str) -> None:
    make, kind = PLACES[place]
    torchs: dict[str, Callable[[float], nn.Module]] = {
        "group_norm(num_groups=4)": lambda eps: nn.GroupNorm(4, WIDTH, eps),
        "instance_norm": lambda eps: nn.InstanceNorm2d(WIDTH, eps),
        "batch_norm": lambda eps: nn.BatchNorm2d(WIDTH, eps),
    }
    conv, x = nn.Conv2d(3, WIDTH, 3, padding=1), torch.randn(4, 3, WIDTH, WIDTH)
    model = nn.Sequential(conv, make())
    swap(model, kind, to)
    torch.testing.assert_close(after(model, x), after(torchs[to](model[1].eps), conv(x)), **CLOSE)


@pytest.mark.parametrize(
    ("place", "target", "shape"),
    [
        (nn.BatchNorm1d(WIDTH), nn.InstanceNorm1d, (4, WIDTH, 7)),
        (nn.BatchNorm1d(WIDTH), grouped, (4, WIDTH)),
        (nn.BatchNorm3d(WIDTH), nn.InstanceNorm3d, (4, WIDTH, 3, 4, 5)),
        (nn.InstanceNorm1d(WIDTH), nn.BatchNorm1d, (4, WIDTH, 7)),
        (nn.InstanceNorm3d(WIDTH), grouped, (4, WIDTH, 3, 4, 5)),
    ],
)
def test_in_one_and_three_dimensions(place: nn.Module, target: Any, shape: tuple[int, ...]) -> None:
    model, x = nn.Sequential(nn.Identity(), place), torch.randn(shape)
    swap(model, type(place), target)
    assert torch.equal(after(model, x), after(target(WIDTH), x))


def test_dimensions_that_do_not_fit_are_refused() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(WIDTH))
    with pytest.raises(ValueError, match=r"InstanceNorm1d did not run in place of 1 on \[4, 8, 3, 5\]: .*force=True"):
        swap(model, "batch_norm", nn.InstanceNorm1d)


TRANSFORMED = {
    "GroupNorm": (grouped, norms.GroupNorm, grouped),
    "InstanceNorm1d": (nn.InstanceNorm1d, norms.InstanceNorm, nn.InstanceNorm1d),
    "InstanceNorm2d": (nn.InstanceNorm2d, norms.InstanceNorm, nn.InstanceNorm1d),
    "InstanceNorm3d": (nn.InstanceNorm3d, norms.InstanceNorm, nn.InstanceNorm1d),
    "tracked": (
        partial(nn.InstanceNorm1d, track_running_stats=True, momentum=0.3),
        norms.InstanceNorm,
        partial(nn.InstanceNorm1d, track_running_stats=True, momentum=0.3),
    ),
    "BatchNorm1d": (nn.BatchNorm1d, norms.BatchNorm, nn.BatchNorm1d),
    "BatchNorm2d": (nn.BatchNorm2d, norms.BatchNorm, nn.BatchNorm1d),
    "BatchNorm3d": (partial(nn.BatchNorm3d, momentum=None, eps=0.1), norms.BatchNorm, partial(nn.BatchNorm1d, eps=0.1)),
}


@pytest.mark.parametrize("positions", [(5,), (WIDTH,), (3, 5), (WIDTH, WIDTH)])
@pytest.mark.parametrize(
    "old", [nn.LayerNorm(WIDTH), norms.RMSNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)]
)
@pytest.mark.parametrize("to", TRANSFORMED)
def test_in_a_transformer_torchs_become_ours(to: str, old: nn.Module, positions: tuple[int, ...]) -> None:
    target, ours, reference = TRANSFORMED[to]
    linear, x = nn.Linear(6, WIDTH), torch.randn(4, *positions, 6)
    model = nn.Sequential(linear, old)
    report = swap(model, type(old), target)
    assert type(model[1]) is ours
    flat = linear(x).flatten(1, -2).movedim(-1, 1)
    alone = reference(WIDTH)
    for training in (True, True, False):
        model.train(training)
        alone.train(training)
        want = after(alone, flat).movedim(1, -1).reshape(4, *positions, WIDTH)
        if to != "BatchNorm3d" or training:
            torch.testing.assert_close(after(model, x), want, **CLOSE)
    report.undo()
    assert model[1] is old


def test_weights_of_the_old_norm_and_of_the_new_one() -> None:
    old = nn.LayerNorm(WIDTH)
    nn.init.uniform_(old.weight, 0.5, 1.5)
    model = nn.Sequential(nn.Linear(6, WIDTH), old)
    report = swap(model, "layer_norm", grouped)
    assert model[1].weight is old.weight
    assert report.replaced[0].kept == ("eps", "weight", "bias")


def test_weights_of_the_target_stay_where_the_old_norm_has_none() -> None:
    def larger(width: int) -> nn.Module:
        made = grouped(width)
        nn.init.constant_(made.weight, 3.0)  # pyright: ignore[reportArgumentType]
        return made

    plain = nn.Sequential(nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False))
    swap(plain, "layer_norm", larger)
    assert plain[1].weight.tolist() == [3.0] * WIDTH


@pytest.mark.parametrize(
    ("to", "name"),
    [
        (lambda width: nn.LocalResponseNorm(3), "LocalResponseNorm"),
        (nn.SyncBatchNorm, "SyncBatchNorm"),
        (FrozenBatchNorm2d, "FrozenBatchNorm2d"),
        (Scaled2d, "Scaled2d"),
        (LayerNorm2d, "LayerNorm2d"),
        (LayerNormAct2d, "LayerNormAct2d"),
    ],
)
def test_in_a_transformer_what_is_not_ours_is_refused(to: Any, name: str) -> None:
    model = nn.Sequential(nn.Linear(6, WIDTH), nn.LayerNorm(WIDTH))
    with pytest.raises(ValueError, match=rf"for 1 a {name}, which has its features on axis 1, .* Nothing was changed"):
        swap(model, "layer_norm", to)
    assert type(model[1]) is nn.LayerNorm
    report = swap(model, "layer_norm", to, force=True)
    assert type(model[1]).__name__ == name
    assert any("features on axis 1" in note for note in report.notes)


def test_a_wrapper_of_the_target_is_taken_where_it_fits_and_taken_off_where_it_does_not() -> None:
    def wrapped(width: int) -> nn.Module:
        return ChannelsFirst(norms.RMSNorm(width))

    maps = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH))
    swap(maps, "batch_norm", wrapped)
    assert isinstance(maps[1], ChannelsFirst)
    assert type(maps[1].norm) is norms.RMSNorm
    rows = nn.Sequential(nn.Linear(3, WIDTH), nn.LayerNorm(WIDTH))
    swap(rows, "layer_norm", wrapped)
    assert type(rows[1]) is norms.RMSNorm


@pytest.mark.parametrize("groups", [2, 4])
def test_group_norm_keeps_its_groups(groups: int) -> None:
    model, x = nn.Sequential(nn.Identity(), nn.GroupNorm(groups, WIDTH)), torch.randn(4, WIDTH, 3, 5)
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    want = after(model, x)
    report = swap(model, "group_norm", "group_norm")
    assert model[1].norm.num_groups == groups
    assert report.replaced[0].difference < 1e-12
    torch.testing.assert_close(after(model, x), want, **CLOSE)


@pytest.mark.parametrize("settings", [{}, {"track_running_stats": True}, {"affine": True, "momentum": None}])
@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_goes_on_with_its_moments(settings: dict[str, Any], training: bool) -> None:
    old, x = nn.InstanceNorm2d(WIDTH, **settings), torch.randn(4, WIDTH, 3, 5)
    old(x)
    model = nn.Sequential(nn.Identity(), old).train(training)
    report = swap(model, "instance_norm", "instance_norm", preserve=True)
    inner = model[1].norm
    assert type(inner) is norms.InstanceNorm
    assert inner.running_mean is old.running_mean
    assert (inner.weight is not None) == bool(settings.get("affine"))
    assert report.replaced[0].difference < 1e-12


def test_groups_that_do_not_divide_the_channels_are_named_with_those_that_do() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(6))
    with pytest.raises(ValueError, match=r"must divide the 6 channels: one of 1, 2, 3, 6, got 4"):
        swap(model, "batch_norm", "group_norm(num_groups=4)")
    assert type(model[1]) is nn.BatchNorm2d
    swap(model, "batch_norm", "group_norm(num_groups=3)")
    assert model[1].norm.num_groups == 3


@pytest.mark.parametrize("width", [3, 5, 7, 8])
def test_the_axis_of_a_module_is_seen_whatever_its_width(width: int) -> None:
    first = [FrozenBatchNorm2d, Scaled2d, LayerNorm2d, nn.BatchNorm1d, nn.InstanceNorm3d, nn.SyncBatchNorm]
    last = [nn.LayerNorm, nn.RMSNorm, nn.Identity, norms.BatchNorm, norms.GroupNorm, norms.ScaleNorm, norms.DyT]
    assert [kind for kind in first if not has_features_first(kind(width), (width,))] == []
    assert [kind for kind in last if has_features_first(kind(width), (width,))] == []


def test_channels_in_a_network_of_convolutions_are_still_found_after_the_swap() -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH))
    for key in ("group_norm", "instance_norm", "batch_norm", "group_norm"):
        swap(model, model_kind(model), key)
        assert model_kind(model) == key


@pytest.mark.parametrize("to", ["rms_norm", "layer_norm_simple", "dyt", "group_norm", "none"])
def test_a_norm_that_takes_three_axes_alone_is_replaced(to: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, WIDTH, 1), LayerNorm1d(WIDTH), nn.Conv1d(WIDTH, 2, 1))
    x = torch.randn(4, 3, 6)
    before = model(x)
    swap(model, "layer_norm", to).undo()
    assert torch.equal(model(x), before)
    swap(model, "layer_norm", to)
    inner = model[0](x)
    # The eps of the old norm stays.
    made = norms.RMSNorm(WIDTH, eps=1e-5) if to == "rms_norm" else norms.NORMS[to](WIDTH)
    expected = made(inner.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(model[1](inner), expected, **CLOSE)


def model_kind(model: nn.Module) -> str:
    ((found,), _) = find_norms(model)
    assert found.channels_first
    return found.kind


@pytest.mark.parametrize("to", [nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d, lambda width: nn.LazyBatchNorm2d()])
def test_a_lazy_module_is_refused(to: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH))
    with pytest.raises(ValueError, match=r"gave a lazy Lazy.*Norm2d for the width 8: give a module that has its size"):
        swap(model, "batch_norm", to)
    assert type(model[1]) is nn.BatchNorm2d


@pytest.mark.parametrize("to", ["rms_norm", "none", "group_norm", "batch_norm", "dyt"])
@pytest.mark.parametrize("place", ["batch", "group", "instance"])
def test_the_output_lies_in_memory_as_before(place: str, to: str) -> None:
    make, kind = PLACES[place]
    maps = torch.randn(4, WIDTH, 3, 5)
    model = nn.Sequential(nn.Identity(), make())
    given = [maps, maps.to(memory_format=torch.channels_last), torch.randn(4, WIDTH, 5, 3).transpose(2, 3)]
    before = [model(x).stride() for x in given]
    swap(model, kind, to)
    assert [model(x).stride() for x in given] == before
