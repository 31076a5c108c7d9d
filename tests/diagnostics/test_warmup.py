"""The first update against the first step of a real optimizer on a copy."""

import copy
import math

import pytest
import torch
from torch import nn

from normscope.diagnostics.diagnosis import diagnose
from normscope.diagnostics.warmup import warmup_features
from support.planted import CASES, images, text, which_digit


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


def test_an_invalid_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive and finite, got 0"):
        warmup_features(nn.Linear(2, 2), None, lambda m, b: torch.zeros(()), 0.0)


class Experts(nn.Module):
    """A Pre-LN block that sends every row to the expert of its largest logit."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(width), nn.Linear(width, 8)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, z = self.norm(x), torch.zeros_like(x)
        scores = self.router(y)
        for place, expert in enumerate(self.experts):
            rows = scores.argmax(-1) == place
            if rows.any():
                z[rows] = expert(y[rows]) * scores[rows][:, place : place + 1]
        return x + z


def test_experts_that_change_with_the_update_do_no_harm() -> None:
    torch.manual_seed(0)
    batch, loss = torch.randn(4, 10, 16), lambda m, b: m(b).square().mean()
    told = warmup_features(nn.Sequential(Experts(), Experts()), batch, loss, 1e-2)
    assert told["layers"] == 2
    assert math.isfinite(told["output_change"])
    # Experts in a chain are a stack: the rows that come to each change with the update.
    rows = Rows()
    told = warmup_features(rows, batch, loss, 0.5)
    assert math.isnan(told["output_change"])
    assert math.isfinite(told["loss_after"])
    reading = diagnose(rows, batch, loss, learning_rate=0.5).readings["first_update"]
    assert "The change of the last layer's output is unknown: the update changed which layers are called" in reading


class Rows(nn.Module):
    """Layers that process only the rows that are positive after the layer before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x.flatten(0, -2)[x.flatten(0, -2)[:, 0] > -0.5])
        return x


def test_complex_parameters_are_updated_along_their_sign() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.complex64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.complex64) @ self.weight

    model, x = Complex(), torch.randn(8, 4)
    told = warmup_features(model, x, lambda m, b: m(b).abs().square().mean(), 1e-5)
    gradient = torch.autograd.grad(model(x).abs().square().mean(), model.weight)[0]
    assert told["predicted_decrease"] == pytest.approx(1e-5 * float(gradient.abs().sum()), rel=1e-4)
    assert told["loss_after"] < told["loss_before"]
