"""Measurements throughout training are taken at the given steps, and change neither training nor the model."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normscope.diagnostics.gradients.history import GradientStep, gradients_through_training
from support.planted import CASES


def test_through_training_the_cadence_is_kept_and_training_is_the_same() -> None:
    case = CASES["double_norm"][1](0)
    twin = copy.deepcopy(case.model)

    def train(model: nn.Module) -> None:
        torch.manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(7):
            optimizer.zero_grad()
            case.loss(model, case.batch).backward()
            optimizer.step()
            model.eval()
            case.loss(model, case.batch)
            model.train()

    with gradients_through_training(case.model, every=3) as history:
        train(case.model)
    train(twin)
    assert [step.step for step in history] == [0, 3, 6]
    assert all(isinstance(step, GradientStep) and len(step.norms) == 6 for step in history)
    for one, other in zip(case.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())


def test_a_cadence_below_one_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="every must be at least 1 step, got 0"),
        gradients_through_training(nn.LayerNorm(2), every=0),
    ):
        pass


def plain(width: int = 8) -> nn.Module:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks = (nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh()) for _ in range(3))
            self.features, self.head = nn.Sequential(*blocks), nn.Linear(width, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x))

    return Net()


def history_of(loss: Callable[[nn.Module, torch.Tensor], torch.Tensor], *, every: int = 2, backwards: int = 1):
    """Train for five updates, with an evaluation of a validation loss after each."""
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = torch.randn(5, backwards, 6, 8, generator=torch.Generator().manual_seed(1))
    with gradients_through_training(model, every=every) as history:
        for parts in batches:
            optimizer.zero_grad()
            for part in parts:
                loss(model, part).backward()
            optimizer.step()
            model.eval()
            loss(model, parts[0]).backward()
            model.train()
            with torch.no_grad():
                loss(model, parts[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return history


def simple(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def test_a_loss_that_calls_parts_of_the_model_is_measured_the_same() -> None:
    want = history_of(simple)
    assert [step.step for step in want] == [0, 2, 4]
    assert history_of(lambda m, x: m.head(m.features(x)).square().mean()) == want  # pyright: ignore


def test_two_calls_for_one_backward_are_one_step() -> None:
    told = history_of(lambda m, x: (m(x) - m(2 * x)).square().mean())
    assert [step.step for step in told] == [0, 2, 4]
    assert [[norm.name for norm in step.norms] for step in told] == [
        2 * ["features.0.1", "features.1.1", "features.2.1"]
    ] * 3
    # Each call by itself, against gradients taken by hand at the first step.
    model, x = plain(), torch.randn(5, 1, 6, 8, generator=torch.Generator().manual_seed(1))[0, 0]
    outputs = []
    model.features[2][1].register_forward_hook(lambda module, inputs, output: outputs.append(output))  # pyright: ignore
    upstream = torch.autograd.grad((model(x) - model(2 * x)).square().mean(), outputs)
    for norm, gradient in zip((told[0].norms[2], told[0].norms[5]), upstream, strict=True):
        assert norm.upstream_energy == pytest.approx(float(gradient.square().sum()))


@pytest.mark.parametrize("whole", [True, False])
def test_activations_that_are_computed_again_are_of_the_same_step(whole: bool) -> None:
    def again(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if whole:
            return checkpoint(model, x, use_reentrant=False).square().mean()  # pyright: ignore
        for block in model.features:  # pyright: ignore
            x = checkpoint(block, x, use_reentrant=False)  # pyright: ignore
        return model.head(x).square().mean()  # pyright: ignore

    for every in (1, 2):
        assert history_of(again, every=every) == history_of(simple, every=every)


def test_every_backward_is_a_step_where_gradients_are_accumulated() -> None:
    assert [step.step for step in history_of(simple, every=3, backwards=2)] == [0, 3, 6, 9]


def test_a_branch_that_gets_no_gradient_ends_no_step_and_begins_none() -> None:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        model(3 * x)
        return model(x).square().mean() + model(2 * x).detach().square().mean()

    told = history_of(loss)
    assert [step.step for step in told] == [0, 2, 4]
    assert told == history_of(simple)


def test_norms_that_are_frozen_in_evaluation_are_measured() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval()
    with gradients_through_training(model, every=1) as history:
        for _ in range(3):
            model(torch.randn(5, 4)).square().mean().backward()
    assert [step.step for step in history] == [0, 1, 2]


def test_it_says_when_nothing_was_measured() -> None:
    model = plain()
    with (
        pytest.warns(UserWarning, match="none of 3 norms was measured: no norm was called in training mode"),
        gradients_through_training(model.eval()) as history,
    ):
        model(torch.randn(2, 8)).square().mean().backward()
    assert history == []
    with (
        pytest.warns(UserWarning, match="none of 3 norms was measured: no norm received a gradient"),
        gradients_through_training(model.train()),
    ):
        model(torch.randn(2, 8))


def test_between_measurements_every_norm_has_one_hook() -> None:
    # Its price is a ratio of times, which no test can hold: ./run bench probe.
    model = plain()
    layers = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]

    def hooks() -> list[tuple[int, int]]:
        return [(len(each._forward_pre_hooks), len(each._forward_hooks)) for each in layers]

    with gradients_through_training(model, every=3):
        seen = []
        for _ in range(4):
            seen.append(hooks())
            model(torch.randn(2, 8)).square().mean().backward()
        seen.append(hooks())
    measured, between = [(1, 2)] * len(layers), [(0, 1)] * len(layers)
    assert seen == [measured, between, between, measured, between]
    assert hooks() == [(0, 0)] * len(layers)


def test_a_late_gradient_of_the_step_before_does_not_end_this_one() -> None:
    norm = nn.LayerNorm(4)
    x = torch.randn(3, 4, requires_grad=True)
    with gradients_through_training(norm, every=1) as history:
        before = norm(x)
        before.sum().backward(retain_graph=True)
        first = norm(x)
        before.square().sum().backward()
        (first + norm(x)).square().sum().backward()
    assert [(step.step, len(step.norms)) for step in history] == [(0, 1), (1, 2)]
