"""A norm is known by what it computes, with its conventions; nothing is taken on its name."""

import pytest
import torch
from torch import nn

from normscope.inspection.behaviour import departs_from, looks_like_norm, observe
from normscope.inspection.equation import Equation
from support.foreign import (
    AnnotatedLayerNorm,
    GatedRMSNorm,
    GroupNormAgain,
    GroupNormAndMore,
    LayerNorm2d,
    LengthNorm,
    LyingNorm,
    OffsetRMSNorm,
    PlainRMSNorm,
)


def seen(module: nn.Module) -> Equation:
    facts = observe(module)
    assert isinstance(facts, Equation), facts
    return facts


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-6, 1e-12])
def test_rms_norm_and_its_eps(eps: float) -> None:
    facts = seen(PlainRMSNorm(16, eps))
    assert (facts.kind, facts.width, facts.eps, facts.eps_place) == ("rms_norm", 16, eps, "variance")
    assert (facts.weight, facts.bias, facts.unit_offset, facts.channels_first) == ("weight", None, False, False)


def test_gain_that_is_one_plus_the_parameter() -> None:
    assert seen(OffsetRMSNorm(16)).unit_offset
    assert seen(OffsetRMSNorm(16)).eps == 1e-5


@pytest.mark.parametrize("width", [4, 64, 1024])
def test_divisor_and_place_of_eps(width: int) -> None:
    facts = seen(AnnotatedLayerNorm(width))
    assert (facts.kind, facts.eps_place, facts.unbiased) == ("layer_norm", "deviation", True)
    assert (facts.weight, facts.bias) == ("a_2", "b_2")


def test_length() -> None:
    facts = seen(LengthNorm(16))
    assert (facts.kind, facts.eps_place, facts.eps, facts.weight) == ("rms_norm", "length", 1e-12, "gamma")


@pytest.mark.parametrize("width", [3, 5, 16])
def test_features_on_axis_1_whatever_the_other_axes(width: int) -> None:
    facts = seen(LayerNorm2d(width, eps=1e-6))
    assert (facts.kind, facts.channels_first, facts.eps) == ("layer_norm", True, 1e-6)


def test_a_name_is_not_believed() -> None:
    assert looks_like_norm(LyingNorm(16))
    assert "computes no layer norm and no RMS norm" in str(observe(LyingNorm(16)))


def test_a_norm_with_a_second_input_is_left_alone() -> None:
    # Our norms take a second input, too: a residual. A gate there would be added without a word.
    assert observe(GatedRMSNorm(16)) == "its forward takes more than one input: x, gate"


def test_without_parameters_the_width_is_unknown() -> None:
    class WeightlessRMSNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.square().mean(-1, keepdim=True).rsqrt()

    assert "nothing tells its width" in str(observe(WeightlessRMSNorm()))


def test_looking_changes_nothing() -> None:
    module = PlainRMSNorm(16).to(torch.bfloat16)
    runs = []
    module.register_forward_hook(lambda *_: runs.append(1))
    weight, state = module.weight, torch.get_rng_state()
    before = weight.detach().clone()
    assert seen(module).kind == "rms_norm"
    assert module.weight is weight
    assert torch.equal(weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not runs


def test_meta_device() -> None:
    assert seen(PlainRMSNorm(16).to("meta")).eps == 1e-6


def test_who_is_worth_a_look() -> None:
    assert looks_like_norm(PlainRMSNorm(12))
    assert not looks_like_norm(nn.Linear(3, 3))
    assert not looks_like_norm(nn.Sequential(PlainRMSNorm(12)))
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    assert not any(looks_like_norm(module) for module in parametrized.modules())


def test_a_switch_called_eps_is_no_eps() -> None:
    norm = PlainRMSNorm(16, eps=1.0)
    norm.learns_eps = True  # pyright: ignore
    assert seen(norm).eps == 1.0
    norm.variance_epsilon = torch.tensor(1.0)  # pyright: ignore
    assert "computes no layer norm" in str(observe(norm))


def test_a_forward_put_on_the_instance_is_not_run() -> None:
    norm, ran = PlainRMSNorm(16), []
    norm.forward = lambda x: ran.append(1) or x
    assert seen(norm).kind == "rms_norm"
    assert not ran


def test_what_cannot_be_copied_whole_is_looked_at_all_the_same() -> None:
    norm = PlainRMSNorm(16)
    norm.source = (line for line in "ab")  # pyright: ignore
    assert seen(norm).kind == "rms_norm"


class Body(PlainRMSNorm):
    """An RMS norm in evaluation, on a few small rows."""

    def rms(self, x: torch.Tensor) -> torch.Tensor:
        return PlainRMSNorm.forward(self, x)


class NoisyRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.rms(x)
        return y + 0.5 * torch.randn_like(y) if self.training else y


class DropRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.rms(x), 0.5, self.training)


class LimitedRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rms(x).clamp(-4, 4)


class LimitedInputRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rms(x.clamp(-1e4, 1e4))


class SizeOfGainRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rms(x) * self.weight.sign()


class LongRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rms(x) * (1.0 if x.shape[-2] < 16 else 0.5)


class FrozenGainRMSNorm(Body):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight.detach() * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


class WithoutGradientRMSNorm(Body):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rms(x)


class DetachedLayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mean = self.deviation = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        mean = mean.detach() if self.mean else mean
        variance = variance.detach() if self.deviation else variance
        return self.weight * (x - mean) * torch.rsqrt(variance + 1e-5) + self.bias


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoisyRMSNorm, "something else in training"),
        (DropRMSNorm, "something else in training"),
        (LimitedRMSNorm, "something else on more and larger ones"),
        (LimitedInputRMSNorm, "something else on more and larger ones"),
        (SizeOfGainRMSNorm, "something else on more and larger ones"),
        (LongRMSNorm, "something else on more and larger ones"),
        (FrozenGainRMSNorm, "computes an RMS norm forward, and another gradient"),
        (WithoutGradientRMSNorm, "with a gradient, it gives no gradient"),
        (DetachedLayerNorm, "computes a layer norm forward, and another gradient"),
    ],
)
def test_a_norm_at_times_only_is_none(kind: type[nn.Module], words: str, width: int, training: bool) -> None:
    norm, state = kind(width).train(training), torch.get_rng_state()
    assert words in str(observe(norm))
    assert norm.training == training
    assert torch.equal(torch.get_rng_state(), state)


def test_either_statistic_detached_is_another_gradient() -> None:
    norm = DetachedLayerNorm(16)
    norm.mean = norm.deviation = False
    assert seen(norm).kind == "layer_norm"
    for name in ("mean", "deviation"):
        norm.mean, norm.deviation = name == "mean", name == "deviation"
        assert "another gradient" in str(observe(norm)), name


def test_a_norm_is_known_without_gradients_and_in_inference_mode() -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert seen(PlainRMSNorm(8)).kind == "rms_norm"


def test_one_number_for_all_features_is_no_gain_of_a_width() -> None:
    class LengthScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.eps = nn.Parameter(torch.ones(1)), 1e-5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.norm(dim=-1, keepdim=True).clamp(min=self.eps) * self.g

    assert not looks_like_norm(LengthScale())
    assert observe(LengthScale()) == "has one number (g) for all features, which is not a weight per feature"


def test_children_that_learn_nothing_are_no_hindrance() -> None:
    class Gated(PlainRMSNorm):
        def __init__(self, child: nn.Module) -> None:
            super().__init__(8)
            self.child = child

    assert looks_like_norm(Gated(nn.SiLU()))
    assert seen(Gated(nn.Identity())).weight == "weight"
    assert not looks_like_norm(Gated(nn.Linear(8, 8)))
    assert not looks_like_norm(Gated(nn.LayerNorm(8, elementwise_affine=False)))
    assert not looks_like_norm(Gated(nn.Sequential(nn.PReLU())))


def test_what_is_not_made_yet_is_not_looked_at() -> None:
    lazy = nn.LazyLinear(4)
    lazy.eps = 1e-5  # pyright: ignore
    assert not looks_like_norm(lazy)


class LimitedGroupNorm(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-8, 8)


class DetachedGroupNorm(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y.detach() + (x - x.detach()) * self.weight[:, None, None]


class LongGroupNorm(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 if x.shape[-1] < 16 else 2)


class StillBatchNorm(nn.BatchNorm2d):
    """Its running moments stand still."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def test_a_subclass_must_do_as_its_base_does() -> None:
    for kind in (GroupNormAndMore, LimitedGroupNorm, DetachedGroupNorm, LongGroupNorm):
        assert departs_from(kind(2, 6), nn.GroupNorm, (4, 6, 3, 5)), kind
    assert departs_from(GroupNormAgain(2, 6), nn.GroupNorm, (4, 6, 3, 5)) is None
    assert departs_from(StillBatchNorm(6), nn.BatchNorm2d, (4, 6, 3, 5))
    assert departs_from(nn.BatchNorm2d(6), nn.BatchNorm2d, (4, 6, 3, 5)) is None
