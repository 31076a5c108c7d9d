"""A norm is known by what it computes, with its conventions; nothing is taken on its name."""

import pytest
import torch
from torch import nn

from foreign import AnnotatedLayerNorm, GatedRMSNorm, LayerNorm2d, LengthNorm, LyingNorm, OffsetRMSNorm, PlainRMSNorm
from normscope.recognition.behaviour import Facts, looks_like_norm, observe


def seen(module: nn.Module) -> Facts:
    facts = observe(module)
    assert isinstance(facts, Facts), facts
    return facts


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-6, 1e-12])
def test_rms_norm_and_its_eps(eps: float) -> None:
    facts = seen(PlainRMSNorm(16, eps))
    assert (facts.kind, facts.width, facts.eps, facts.eps_place) == ("rms_norm", 16, eps, "variance")
    assert (facts.gain, facts.bias, facts.unit_offset, facts.channels_first) == ("weight", None, False, False)


def test_gain_that_is_one_plus_the_parameter() -> None:
    assert seen(OffsetRMSNorm(16)).unit_offset
    assert seen(OffsetRMSNorm(16)).eps == 1e-5


@pytest.mark.parametrize("width", [4, 64, 1024])
def test_divisor_and_place_of_eps(width: int) -> None:
    facts = seen(AnnotatedLayerNorm(width))
    assert (facts.kind, facts.eps_place, facts.unbiased) == ("layer_norm", "deviation", True)
    assert (facts.gain, facts.bias) == ("a_2", "b_2")


def test_length() -> None:
    facts = seen(LengthNorm(16))
    assert (facts.kind, facts.eps_place, facts.gain) == ("rms_norm", "length", "gamma")


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
