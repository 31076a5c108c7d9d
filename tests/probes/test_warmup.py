"""The first update against a real optimizer's first step on a copy."""

import copy
import math

import pytest
import torch
from planted import CASES, images, text, which_digit
from torch import nn

from normscope.probes import warmup_features


@pytest.mark.parametrize(("update", "made"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_the_loss_after_is_that_of_a_real_first_step(update: str, made: type[torch.optim.Optimizer]) -> None:
    case = text(0, "post")
    told = warmup_features(case.model, case.batch, case.loss, 1e-3, update=update)  # pyright: ignore
    twin = copy.deepcopy(case.model)
    optimizer = made(twin.parameters(), lr=1e-3)  # pyright: ignore
    before = case.loss(twin, case.batch)
    before.backward()
    gradients = [p.grad.clone() for p in twin.parameters() if p.grad is not None]
    optimizer.step()
    assert told["loss_before"] == pytest.approx(float(before.detach()))
    # Adam adds 1e-8 to the root of gradients that are as small as 1e-6.
    assert told["loss_after"] == pytest.approx(float(case.loss(twin, case.batch).detach()), abs=2e-3)
    wanted = sum(float((g.abs() if update == "adam" else g.square()).sum()) for g in gradients)
    assert told["predicted_decrease"] == pytest.approx(1e-3 * wanted, rel=1e-4)


def test_for_a_small_step_the_decrease_is_the_predicted_one() -> None:
    case = text(0, "pre")
    case.model.double()
    told = warmup_features(case.model, case.batch, case.loss, 1e-6)
    assert told["decrease_ratio"] == pytest.approx(1.0, abs=1e-2)


def test_nothing_is_left_of_the_update() -> None:
    case = text(0, "post")
    before = copy.deepcopy(case.model.state_dict())
    warmup_features(case.model, case.batch, case.loss, 1.0)
    assert all(torch.equal(before[key], value) for key, value in case.model.state_dict().items())


def test_a_deep_post_stack_is_changed_more_than_a_pre_stack() -> None:
    post, pre = text(0, "post", layers=8), text(0, "pre", layers=8)
    features = [warmup_features(case.model, case.batch, case.loss, 3e-4) for case in (post, pre)]
    assert features[0]["output_change"] > 1.5 * features[1]["output_change"]
    assert (features[0]["post"], features[1]["pre"]) == (1.0, 1.0)


def test_dropout_is_the_same_before_and_after() -> None:
    case = CASES["double_norm"][1](0)
    told = warmup_features(case.model, case.batch, case.loss, 1e-9, generator=torch.Generator().manual_seed(1))
    assert told["output_change"] < 1e-4


def test_a_model_without_layers_has_no_numbers_by_depth() -> None:
    told = warmup_features(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images(0), which_digit, 1e-3)
    assert math.isnan(told["output_change"])
    assert told["loss_after"] < told["loss_before"]


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        warmup_features(nn.Linear(2, 2), None, lambda m, b: torch.zeros(()), 0.0)
