"""GroupNorm is torch's, with the channels last."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import module_db

from normscope import NormSpec
from normscope.norms import ChannelsFirst, GroupNorm, InstanceNorm, group_norm

# Float64 sums of at most a hundred terms of order one.
SAME = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("space", [(5,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"eps": 0.2}])
def test_is_torchs_with_its_gradients(groups: int, space: tuple[int, ...], settings: dict[str, Any]) -> None:
    theirs = nn.GroupNorm(groups, 6, **settings, dtype=torch.float64)
    for parameter in theirs.parameters():
        nn.init.uniform_(parameter, 1, 3)
    ours = GroupNorm(6, num_groups=groups, **settings, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = (3 + 2 * torch.randn(4, *space, 6, dtype=torch.float64)).requires_grad_()
    upstream = torch.randn_like(x)
    got, want = ours(x), theirs(x.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(got, want, **SAME)
    got = torch.autograd.grad(got, (x, *ours.parameters()), upstream)
    want = torch.autograd.grad(want, (x, *theirs.parameters()), upstream)
    torch.testing.assert_close(got, want, **SAME)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_samples_of_one_position(groups: int) -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    ours, theirs = GroupNorm(6, num_groups=groups).double(), nn.GroupNorm(groups, 6).double()
    torch.testing.assert_close(ours(x), theirs(x), **SAME)


@pytest.mark.parametrize("training", [True, False])
def test_torchs_cases(training: bool) -> None:
    (info,) = (info for info in module_db if info.module_cls is nn.GroupNorm)
    cases = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)
    for case in cases:
        groups, channels, *rest = case.constructor_input.args
        settings = {**dict(zip(("eps", "affine"), rest, strict=False)), **case.constructor_input.kwargs}
        theirs = nn.GroupNorm(groups, channels, **settings, dtype=torch.float64)
        ours = ChannelsFirst(GroupNorm(channels, num_groups=groups, **settings, dtype=torch.float64))
        (x,) = case.forward_input.args
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_one_group_is_a_layer_norm_and_all_groups_an_instance_norm() -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(group_norm(x, 1, None, None), nn.functional.layer_norm(x, (6,)), **SAME)
    maps = torch.randn(4, 5, 6, dtype=torch.float64)
    want = nn.functional.instance_norm(maps.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(group_norm(maps, 6, None, None), want, **SAME)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (2, 1), (7, 1), (8, 4), (12, 6), (63, 21), (64, 32), (100, 25), (512, 32)],
)
def test_the_number_of_groups_unless_it_is_given(channels: int, groups: int) -> None:
    assert GroupNorm(channels).num_groups == groups


@pytest.mark.parametrize("groups", [0, -2, 4, 5, 12, 32])
def test_groups_that_do_not_divide_the_channels_are_refused_with_those_that_do(groups: int) -> None:
    with pytest.raises(ValueError, match=rf"divide the 6 channels: one of 1, 2, 3, 6, got {groups}"):
        GroupNorm(6, num_groups=groups)


@pytest.mark.parametrize("groups", [2.0, True, "2"])
def test_a_number_of_groups_is_an_int(groups: Any) -> None:
    with pytest.raises(TypeError, match="num_groups must be an int, got "):
        GroupNorm(6, num_groups=groups)


def test_groups_of_one_number_and_a_missing_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups of more than one number, got \[4, 6\]"):
        GroupNorm(6, num_groups=6)(torch.randn(4, 6))
    with pytest.raises(ValueError, match=r"expects \[batch, \.\.\., 6\], got \[6\]"):
        GroupNorm(6)(torch.randn(6))


@pytest.mark.parametrize("groups", [1, 16, 48])
def test_is_written_in_a_study(groups: int) -> None:
    spec = NormSpec.parse(f"group_norm(num_groups={groups})")
    assert str(spec) == f"group_norm(num_groups={groups})"
    assert spec.build(96).num_groups == groups
    if groups > 1:
        with pytest.raises(ValueError, match=f"must divide the 95 channels: one of 1, 5, 19, 95, got {groups}"):
            spec.build(95)


@pytest.mark.parametrize("groups", ["0", "-3"])
def test_a_number_of_groups_that_no_width_has_is_refused_at_once(groups: str) -> None:
    with pytest.raises(ValueError, match=f"group_norm: num_groups must divide .*got {groups}"):
        NormSpec.parse(f"group_norm(num_groups={groups})")
    with pytest.raises(TypeError, match=r"num_groups must be a whole number, got 2\.5"):
        NormSpec.parse("group_norm(num_groups=2.5)")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e18, 3e20, 1e37])
@pytest.mark.parametrize("kind", [GroupNorm, InstanceNorm])
def test_very_large_numbers_are_normalized_as_in_float64(kind: Any, size: float, dtype: torch.dtype) -> None:
    x = (size * torch.randn(4, 5, 6)).to(dtype)
    wide = x.double().requires_grad_()
    narrow = x.clone().requires_grad_()
    upstream = torch.randn(4, 5, 6).to(dtype)
    want, got = kind(6).double()(wide), kind(6)(narrow)
    # One rounding of the output, or a few of float32's.
    rtol = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=rtol)
    want.backward(upstream.double())
    got.backward(upstream)
    scale = size if size < 1e36 else None
    if scale is not None:
        torch.testing.assert_close(narrow.grad.double() * scale, wide.grad * scale, rtol=2 * rtol, atol=2 * rtol)


def test_running_moments_of_large_numbers_are_their_moments() -> None:
    x = 1e18 * torch.randn(4, 5, 6) + 3e18
    narrow, wide = (InstanceNorm(6, track_running_stats=True, dtype=dtype) for dtype in (torch.float32, torch.float64))
    narrow(x)
    wide(x.double())
    torch.testing.assert_close(narrow.running_mean.double(), wide.running_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(narrow.running_var.double(), wide.running_var, rtol=1e-5, atol=0)
