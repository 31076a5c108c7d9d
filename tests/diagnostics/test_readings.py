"""Readings contain the measured numbers, and say so if nothing was measured."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope import norms
from normscope.diagnostics.depth.profile import StackDepth
from normscope.diagnostics.diagnosis import diagnose
from normscope.diagnostics.gradients.at_norms import LostGradient, gradients_at_norms
from normscope.diagnostics.measured import Measured
from normscope.diagnostics.readings import READINGS, read
from support.planted import CASES


def test_without_measurements_every_reading_says_so() -> None:
    told = read(Measured(gradients=[], stacks=[], doubles=[], ranges=[]))
    assert list(told) == [name for name in READINGS if name != "recurrent"]
    for words in told.values():
        assert words.startswith("No ")


@pytest.mark.parametrize("cause", CASES)
def test_readings_of_real_models_hold_their_numbers(cause: str) -> None:
    case = CASES[cause][0](0)
    told = diagnose(case.model, case.batch, case.loss, **case.settings)
    assert f"{len(told.gradients)} norms" in told.readings["gradients"] or not told.gradients
    assert f"{len(told.stacks[-1].layers)} layers" in told.readings["depth"]
    assert all(len(words) > 60 and words.endswith(".") for words in told.readings.values())


def test_a_failed_growth_is_reported() -> None:
    case = CASES["unscaled_residual"][0](0)
    told = diagnose(case.model, case.batch, case.loss)
    assert "(fail, at most 4)" in told.readings["depth"]


@pytest.mark.parametrize("place", [0, 1])
def test_there_is_no_verdict_on_warm_up(place: int) -> None:
    case = CASES["post_norm_without_warm_up"][place](0)
    told = diagnose(case.model, case.batch, case.loss, **case.settings)
    assert "These numbers do not show whether warm-up is needed" in told.readings["first_update"]
    assert ("which is reported as a cause" in told.readings["first_update"]) == (place == 0)


def test_weight_decay_of_norms_is_reported() -> None:
    case = CASES["weights_near_zero"][0](0)
    told = diagnose(case.model, case.batch, case.loss, **case.settings)
    assert "The optimizer applies weight decay to 9 of 9 norms" in told.readings["range"]


def square(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def gradients_of(module: nn.Module) -> Measured:
    model = nn.Sequential(nn.Linear(16, 16), module, nn.Linear(16, 4))
    seen = gradients_at_norms(model, torch.randn(4, 10, 16), square)
    return Measured(gradients=seen, stacks=[], doubles=[], ranges=[])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (norms.DyT(16), "removes neither"),
        (norms.DetachNorm(16), "removes neither"),
        (norms.FRN(16), "removes neither"),
        (nn.RMSNorm(16), "removes the part along the uncentered input instead"),
        (nn.LayerNorm(16), "removes both parts"),
    ],
)
def test_what_a_norm_removes_is_not_what_lies_there(module: nn.Module, words: str) -> None:
    reading = read(gradients_of(module))["gradients"]
    assert "Over 1 norm the median share of the gradient along the constant vector" in reading
    assert f"This norm {words}." in reading
    assert "takes out" not in reading


def test_a_law_that_is_off_does_not_hold() -> None:
    told = gradients_of(nn.LayerNorm(16))
    (one,) = told.gradients
    for error, words in ((0.01, "holds to 1.0e-02"), (0.57, "is off by at most 5.7e-01, at 1")):
        assert words in read(replace(told, gradients=[replace(one, law_error=error)]))["gradients"]
    reading = read(replace(told, gradients=[one, replace(one, law_error=None)]))["gradients"]
    assert "the gradients of 1 call are too small to check it" in reading


def test_calls_without_a_usable_gradient_are_counted() -> None:
    told = gradients_of(nn.LayerNorm(16))
    lost = [
        LostGradient(name="a", why="zero"),
        LostGradient(name="b", why="zero"),
        LostGradient(name="c", why="missing"),
    ]
    assert (
        "3 calls of norms had no usable gradient (zero at 2, no gradient at 1) and are left out"
        in read(replace(told, lost=lost))["gradients"]
    )
    assert read(replace(told, gradients=[], lost=lost[:1]))["gradients"].startswith("No usable gradient reached 1 norm")


def test_small_shares_keep_their_digits() -> None:
    told = gradients_of(nn.LayerNorm(16))
    small = replace(told.gradients[0], recentering=1.25e-5, width=100_000)
    reading = read(replace(told, gradients=[small]))["gradients"]
    assert "is 0.00125%" in reading
    assert "has 0.001% along each" in reading


@pytest.mark.parametrize(
    ("model", "told", "missing"),
    [
        (nn.Sequential(nn.Linear(16, 16)), {}, ("last layer", "of that output")),
        (nn.LayerNorm(16), {}, ("last layer", "of that output", "matrix")),
    ],
)
def test_a_first_update_says_only_what_is_known(
    model: nn.Module, told: dict[str, Any], missing: tuple[str, ...]
) -> None:
    reading = diagnose(model, torch.randn(4, 16), square, learning_rate=1e-3).readings
    assert "takes the loss from" in reading["first_update"]
    for words in (*missing, "nan"):
        assert words not in reading["first_update"]
    assert " at :" not in reading["gradients"]


def test_the_reason_for_no_first_update_is_the_real_one() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    x = torch.randn(4, 16)
    rms = torch.optim.RMSprop(model.parameters())
    adam = torch.optim.Adam(model.parameters())
    square(model, x).backward()
    adam.step()
    for settings, words in (
        ({"optimizer": rms}, "the first update of RMSprop follows a rule that normscope does not know"),
        ({"optimizer": adam}, "Adam has already made updates"),
        ({}, "it needs a learning rate or an optimizer"),
        ({"learning_rate": 1e-3, "first_update": False}, "it is skipped for a model whose training has begun"),
    ):
        told = diagnose(model, x, square, **settings)  # pyright: ignore
        assert told.readings["first_update"].startswith(f"No first update was tried: {words}")


def stack(cause: str, **changes: Any) -> StackDepth:
    case = CASES[cause][0](0)
    (told,) = diagnose(case.model, case.batch, case.loss).stacks
    return replace(told, **changes)


def depth(*stacks: StackDepth) -> str:
    return read(Measured(gradients=[], stacks=stacks, doubles=[], ranges=[]))["depth"]


def test_the_words_on_depth_are_about_the_stack_that_was_measured() -> None:
    plain = stack("unscaled_residual", growth=1.2, passes={"activation": True, "gradient": False})
    towards_input = depth(replace(plain, gradient_ratio=4.6e-4))
    assert "A gradient that grows towards the input" in towards_input
    assert "fades" not in towards_input
    assert "norms on the residual stream" not in towards_input
    assert "the cause is the layers, not a norm on the residual stream" in depth(replace(plain, gradient_ratio=400.0))
    perceptron = depth(replace(plain, residual=False, growth=27.2, gradient_ratio=1.0))
    assert "(fail" not in perceptron
    assert "The output size of layers without a residual connection" in perceptron
    assert "A residual stream that grows exponentially" not in perceptron
    post = stack("missing_final_norm", placement="post", gradient_ratio=5.0)
    assert "theory predicts a factor of 0.8 per layer" in depth(post)
    assert "broken lines" not in depth(post)


def test_sizes_that_are_not_finite_are_not_printed() -> None:
    told = depth(stack("unscaled_residual", growth=math.nan, gradient_ratio=math.inf))
    assert "the outputs of its layers are not finite, and its gradients are not finite" in told
    assert "nan" not in told
    assert "(fail" not in told


def test_the_actual_eps_of_an_rms_norm_is_reported() -> None:
    told = diagnose(nn.Sequential(nn.Linear(16, 16), nn.RMSNorm(16)), torch.randn(4, 16), square)
    assert "where eps is 1.19e-07" in told.readings["range"]


def test_equal_norms_are_summarized() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6))
    told = diagnose(model, torch.randn(5, 6), lambda model, x: model(x).square().mean())
    seen, means = told.readings["gradients"].split("\n")
    assert "All 2 norms remove both parts." in seen
    model[3] = norms.RMSNorm(6)
    told = diagnose(model, torch.randn(5, 6), lambda model, x: model(x).square().mean())
    assert (
        "Of these 2 norms, 1 removes both parts, 1 removes the part along the uncentered input"
        in told.readings["gradients"]
    )
    assert means.startswith("A large first share means")


class Clipping(nn.Module):
    """A norm of a kind that is not known: nothing in its name or its parameters says so."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / x.abs().amax(-1, keepdim=True).clamp(min=1e-6)


def test_norms_that_are_not_known_may_have_run_and_can_be_registered() -> None:
    model = nn.Sequential(nn.Linear(4, 8), Clipping(8), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    told = diagnose(model, x, lambda model, x: model(x).square().mean())
    for reading in ("gradients", "range"):
        assert "No norm that is recognized was called" in told.readings[reading]
        assert "Norms of other kinds may have run" in told.readings[reading]
        assert "registered in normscope.norms.NORMS" in told.readings[reading]
    norms.NORMS["clipping"] = Clipping
    try:
        told = diagnose(model, x, lambda model, x: model(x).square().mean())
    finally:
        del norms.NORMS["clipping"]
    assert [each.name for each in told.ranges] == ["1"]
    assert "may have run" not in "".join(told.readings.values())


def test_a_norm_that_cannot_be_measured_is_named_beside() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.layer_norm(self.inner(x), (8,))

    told = diagnose(nn.Sequential(Functional()), torch.randn(16, 4), lambda model, x: model(x).pow(4).mean())
    assert "such as 0 (1 module or function that may be a norm)" in told.readings["range"]
