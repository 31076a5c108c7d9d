"""What takes a norm's place has all of the old one that fits, and says what does not."""

import re

import pytest
import torch
from torch import nn

from normscope.inspection.find import recognize
from normscope.inspection.norm_in_model import NormInModel
from normscope.norms import BatchNorm, ChannelsFirst, LayerNorm, RMSNorm
from normscope.surgery import swap
from normscope.surgery.replacement import Replacement, build, check_preserved, read_target
from support.foreign import AnnotatedLayerNorm, OffsetRMSNorm, PlainRMSNorm


def built(module: nn.Module, to, **settings) -> Replacement:
    norm = recognize(("there",), module)
    assert isinstance(norm, NormInModel)
    (one,) = build(nn.ModuleDict({"there": module}), [norm], read_target(to), **settings)
    return one


def filled(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    return module


def test_gain_and_bias_are_the_same_objects() -> None:
    old = filled(nn.LayerNorm(6, eps=1e-3))
    one = built(old, "layer_norm")
    assert one.module.weight is old.weight
    assert one.module.bias is old.bias
    assert one.kept == ("eps", "weight", "bias")
    assert one.lost == ()
    # Float64, both of them.
    assert one.difference.usual < 1e-14


def test_what_has_no_place_is_told() -> None:
    assert built(nn.LayerNorm(6), "rms_norm").lost == ("bias",)
    assert built(nn.LayerNorm(6), "ada_norm").lost == ("weight", "bias")
    assert built(nn.LayerNorm(6), "scale_norm").lost == ("weight", "bias", "eps 1e-05")
    assert built(nn.BatchNorm1d(6), "layer_norm").lost == ("running moments",)
    assert built(AnnotatedLayerNorm(6), "layer_norm").lost == ("eps 1e-06 (outside the root)", "the divisor n - 1")


def test_one_plus_the_parameter() -> None:
    old = OffsetRMSNorm(6)
    one = built(old, "rms_norm")
    torch.testing.assert_close(one.module.weight, 1 + old.weight, rtol=0, atol=0)
    assert one.kept == ("eps", "weight (as a new parameter, 1 + weight)")
    # The sum is rounded to float32 once.
    assert one.difference.usual < torch.finfo(torch.float32).eps


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_goes_on_with_its_moments(training: bool) -> None:
    old = filled(nn.BatchNorm2d(6, eps=1e-3, momentum=0.3)).train(training)
    old.running_mean.uniform_()
    one = built(old, "batch_norm")
    assert isinstance(one.module, ChannelsFirst)
    inner = one.module.norm
    assert isinstance(inner, BatchNorm)
    assert inner.running_mean is old.running_mean
    assert inner.momentum == 0.3
    assert inner.training == training
    assert one.difference.usual < 1e-14


@pytest.mark.parametrize(
    "to",
    ["layer_norm", "ada_norm", "dyt", "batch_norm", "none", "derf", "scale_norm", "frn", "group_norm", "instance_norm"],
)
@pytest.mark.parametrize("old", [nn.LayerNorm(6), nn.GroupNorm(2, 6), nn.BatchNorm1d(6), nn.RMSNorm(6)])
def test_mode_dtype_and_what_is_frozen(old: nn.Module, to: str) -> None:
    old = old.to(torch.bfloat16).requires_grad_(False).eval()
    new = built(old, to).module
    assert not new.training
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in new.parameters())


def test_hooks_run_and_their_handles_hold() -> None:
    old, runs = nn.LayerNorm(6), []
    before = old.register_forward_pre_hook(lambda module, given: runs.append("before"))
    old.register_forward_hook(lambda module, given, named, out: runs.append("after"), with_kwargs=True)
    old.register_full_backward_hook(lambda module, gin, gout: runs.append("back"))
    new = built(old, "ada_norm").module
    x = torch.randn(3, 6, requires_grad=True)
    y = new(x)
    y.backward(torch.randn_like(y))
    assert runs == ["before", "after", "back"]
    before.remove()
    new(x)
    assert runs[3:] == ["after"]


def test_hooks_of_a_parameter_that_is_replaced_are_told() -> None:
    old = OffsetRMSNorm(6)
    old.weight.register_hook(lambda gradient: gradient)
    assert "hooks on the parameter weight" in built(old, "rms_norm").lost


def test_nothing_happens_to_the_old_one() -> None:
    old = filled(nn.BatchNorm1d(6))
    before = {name: value.clone() for name, value in old.state_dict().items()}
    built(old, "batch_norm")
    built(old, "dyt")
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in before.items())


def test_preserved() -> None:
    old = PlainRMSNorm(6)
    nn.init.constant_(old.weight, 2.0)
    one = built(old, "scale_norm", preserve=True)
    check_preserved([one])
    torch.testing.assert_close(one.module.weight.item(), 2 * 6**0.5)
    x = torch.randn(9, 6)
    # eps of 1e-6 against a mean square of order one; a tenth of it in small rows.
    torch.testing.assert_close(one.module(x), old(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"1 of 1 replacements are another one on random rows \(there: .* to_rms_norm"):
        check_preserved([built(filled(nn.LayerNorm(6)), "rms_norm", preserve=True)])


def test_a_module_that_does_not_run_in_float64_runs_in_the_dtype_of_the_norm() -> None:
    class Single(nn.LayerNorm):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise NotImplementedError("float32 only")
            return super().forward(x)

    # Roundings of float32.
    assert 0 < built(nn.LayerNorm(6), Single).difference.usual < 1e-6


class Elsewhere(nn.LayerNorm):
    """Runs nowhere where a test runs."""

    def forward(self, x):
        raise self.error("only on another device")

    error: type[Exception] = RuntimeError


class Shorter(nn.LayerNorm):
    """Gives fewer rows than it takes."""

    def forward(self, x):
        return super().forward(x)[:, :2]


class Pair(nn.LayerNorm):
    """Gives no tensor."""

    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("to", "why"),
    [
        (Elsewhere, r"Elsewhere did not run in place of 1 on \[4, 6, 6\]: only on another device"),
        (lambda width: nn.Linear(width, 3), r"Linear gives \[4, 6, 3\] for 1 where LayerNorm gave \[4, 6, 6\]"),
        (lambda width: nn.RMSNorm(width + 1), r"did not run in place of 1 .* it has 7 entries for 6"),
        (Shorter, r"Shorter gives \[4, 2, 6\] for 1 where LayerNorm gave \[4, 6, 6\]"),
        (Pair, r"Pair did not run in place of 1 on \[4, 6, 6\]: gives a tuple"),
        (lambda width: nn.Conv2d(width, width, 3), "Conv2d did not run in place of 1"),
    ],
)
def test_what_does_not_run_or_changes_the_shape_is_put_in_by_force_alone(to, why: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    with pytest.raises(ValueError, match=f"{why}.*Nothing was changed; force=True"):
        swap(model, "layer_norm", to)
    assert type(model[1]) is nn.LayerNorm
    report = swap(model, "layer_norm", to, force=True)
    assert type(model[1]) is not nn.LayerNorm
    assert report.replaced[0].difference != report.replaced[0].difference
    assert "not measured" in str(report)
    assert any(re.search(why, note) for note in report.notes)
    report.undo()
    assert type(model[1]) is nn.LayerNorm


@pytest.mark.parametrize("error", [ValueError, TypeError, IndexError, NotImplementedError, AssertionError, KeyError])
def test_any_error_is_a_reason_not_to_put_it_in(error: type[Exception]) -> None:
    class Failing(Elsewhere):
        pass

    Failing.error = error
    with pytest.raises(ValueError, match=r"Failing did not run in place of there .*only on another device"):
        built(nn.LayerNorm(6), Failing)


def test_classes_are_ours() -> None:
    assert type(built(nn.LayerNorm(6), "layer_norm").module) is LayerNorm
    assert type(built(PlainRMSNorm(6), "rms_norm").module) is RMSNorm


def test_a_function_must_make_a_new_module_for_every_norm() -> None:
    one = nn.RMSNorm(6)
    gain = one.weight
    model = nn.Sequential(nn.LayerNorm(6), nn.LayerNorm(6), nn.RMSNorm(6))
    with pytest.raises(ValueError, match="gave for 1 the very module of 0: it must make a new one for every place"):
        swap(model, "layer_norm", lambda width: one)
    with pytest.raises(ValueError, match="gave for 0 the very module of 2"):
        swap(model, "layer_norm", lambda width: model[2])
    assert one.weight is gain
    assert [type(norm) for norm in model] == [nn.LayerNorm, nn.LayerNorm, nn.RMSNorm]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_preserved_to_a_rounding_of_the_parameters(dtype: torch.dtype) -> None:
    # The length is the root of 6, which none of the two can hold.
    one = built(PlainRMSNorm(6).requires_grad_(False).to(dtype).apply(ones), "scale_norm", preserve=True)
    assert 1e-5 < one.difference.usual < torch.finfo(dtype).eps
    check_preserved([one])
    with pytest.raises(ValueError, match="1 of 1 replacements are another one"):
        check_preserved([built(PlainRMSNorm(6).to(dtype), "scale_norm", preserve=True)])


def ones(module: nn.Module) -> None:
    module.weight.data.fill_(1.0)


def test_preserving_wants_numbers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.RMSNorm(6))
    with pytest.raises(ValueError, match=r"1 modules have no numbers, for they are on the meta device \(0\)"):
        swap(model, "rms_norm", "scale_norm", preserve=True)
    assert type(model[0]) is nn.RMSNorm
