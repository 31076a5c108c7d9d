"""Planted causes in recurrent layers are the only finding, and healthy layers have none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normscope
from normscope.diagnostics.diagnosis import Diagnosis
from normscope.diagnostics.recurrent.rules import RECURRENT_CAUSES

WIDTH, HIDDEN, STEPS = 64, 64, 200
Loss = Callable[[nn.Module, Tensor], Tensor]


def at_every_step(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x)[0] - 0.1).square().mean()


def at_the_last(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x)[0][-1] - 0.1).square().mean()


def diagnosed(layer: nn.Module, loss: Loss, x: Tensor | None = None, **settings: Any) -> Diagnosis:
    if x is None:
        x = torch.randn(STEPS, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    return normscope.diagnose(layer, x, loss, **({"learning_rate": 1e-4} | settings))


def causes(layer: nn.Module, loss: Loss, x: Tensor | None = None, **settings: Any) -> set[str]:
    return {finding.name for finding in diagnosed(layer, loss, x, **settings).findings}


@torch.no_grad()
def with_bias(layer: nn.RNNBase, gate: int, bias: float) -> nn.RNNBase:
    layer.bias_ih_l0[gate * HIDDEN : (gate + 1) * HIDDEN] = bias  # pyright: ignore
    layer.bias_hh_l0[gate * HIDDEN : (gate + 1) * HIDDEN] = 0  # pyright: ignore
    return layer


@torch.no_grad()
def with_weights(layer: nn.RNNBase, factor: float) -> nn.RNNBase:
    for name, parameter in layer.named_parameters():
        if name.startswith("weight"):
            parameter.mul_(factor)
    return layer


@torch.no_grad()
def with_radius(radius: float, *, negative: bool = False) -> nn.RNNBase:
    """Return a relu RNN whose recurrent weights are ``radius`` times an orthogonal matrix, of positive entries or not.

    The first keeps all units active, and so the gradient times the radius at every step.
    """
    layer = nn.RNN(WIDTH, HIDDEN, nonlinearity="relu")
    if negative:
        nn.init.orthogonal_(layer.weight_hh_l0, radius)
    else:
        layer.weight_hh_l0.copy_(radius * torch.eye(HIDDEN).roll(1, 0))
        layer.weight_ih_l0.abs_()
        layer.bias_ih_l0.fill_(1.0)
    return layer


def positive() -> Tensor:
    return torch.rand(STEPS, 4, WIDTH, generator=torch.Generator().manual_seed(1))


def starting_late(steps: int) -> Tensor:
    """Return a sequence whose first steps are zero, as the rows of an image with a blank margin."""
    x = torch.randn(STEPS, 4, WIDTH, generator=torch.Generator().manual_seed(1))
    x[:steps] = 0
    return x


@pytest.mark.parametrize("loss", [at_every_step, at_the_last])
@pytest.mark.parametrize(
    "make",
    [
        lambda: with_bias(nn.LSTM(WIDTH, HIDDEN), 1, -5.0),
        lambda: with_bias(normscope.LSTM(WIDTH, HIDDEN), 1, -5.0),
        lambda: with_bias(nn.GRU(WIDTH, HIDDEN), 1, -5.0),
    ],
)
def test_a_closed_forget_gate_is_named(make: Callable[[], nn.Module], loss: Loss) -> None:
    torch.manual_seed(0)
    assert causes(make(), loss) == {"forget_gate_closed"}


@pytest.mark.parametrize("loss", [at_every_step, at_the_last])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_weights_three_times_as_large_saturate_the_gates(kind: type[nn.RNNBase], loss: Loss) -> None:
    torch.manual_seed(0)
    assert causes(with_weights(kind(WIDTH, HIDDEN), 3.0), loss) == {"gates_saturated"}


def test_a_norm_takes_the_factor_of_the_weights_out() -> None:
    torch.manual_seed(0)
    for kind in (normscope.LSTM, normscope.GRU, normscope.RNN):
        assert causes(with_weights(kind(WIDTH, HIDDEN), 3.0), at_every_step) == set()


def test_saturation_in_a_trained_model_is_named_later() -> None:
    torch.manual_seed(0)
    assert causes(with_weights(nn.LSTM(WIDTH, HIDDEN), 3.0), at_every_step, first_update=False) == set()
    assert causes(with_weights(nn.LSTM(WIDTH, HIDDEN), 10.0), at_every_step, first_update=False) == {"gates_saturated"}


@pytest.mark.parametrize("loss", [at_every_step, at_the_last])
def test_a_radius_above_one_explodes(loss: Loss) -> None:
    torch.manual_seed(0)
    found = diagnosed(with_radius(1.2), loss, positive())
    (finding,) = found.findings
    assert finding.name == "gradient_explodes_over_steps"
    assert "multiplies the gradient by 1.2 " in finding.evidence
    assert f"{1.2 ** (STEPS - 1):.1e}" in finding.evidence


def test_a_radius_below_one_vanishes_where_only_the_last_step_is_read() -> None:
    torch.manual_seed(0)
    found = diagnosed(with_radius(0.8), at_the_last, positive())
    (finding,) = found.findings
    assert (finding.name, finding.where) == ("gradient_vanishes_over_steps", "l0")
    assert "multiplies the gradient by 0.8 " in finding.evidence
    assert causes(with_radius(0.8), at_every_step, positive()) == set()
    assert causes(with_radius(1.0), at_the_last, positive()) == set()


def test_relu_takes_half_of_the_gradient_of_an_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    assert causes(with_radius(1.2, negative=True), at_the_last) == {"gradient_vanishes_over_steps"}


def test_a_gradient_that_is_not_finite_explodes() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        z = model(x)[0][-1]
        return (1e10 * (z - z.detach())).sum()

    torch.manual_seed(0)
    found = diagnosed(with_radius(2.0), loss, positive()[:100], learning_rate=None)
    (finding,) = found.findings
    assert finding.name == "gradient_explodes_over_steps"
    assert f"not finite at {found.recurrent[0].overflow} of 100 steps" in finding.evidence
    assert found.recurrent[0].gradient_h[0] is None


@pytest.mark.parametrize("loss", [at_every_step, at_the_last])
def test_equal_rows_of_c_are_named(loss: Loss) -> None:
    torch.manual_seed(0)
    found = diagnosed(normscope.LSTM(WIDTH, HIDDEN, bias=False), loss, starting_late(8))
    (finding,) = found.findings
    assert (finding.name, finding.where) == ("norm_of_equal_entries", "norms.l0.hh.0, norms.l0.cell.0")
    assert "8 of 200 steps" in finding.evidence
    assert found.recurrent[0].norms[2].below_eps == (1.0,) * 8 + (0.0,) * 192
    assert causes(normscope.LSTM(WIDTH, HIDDEN), loss, starting_late(50)) == set()


def test_enough_equal_rows_make_the_gradient_infinite() -> None:
    torch.manual_seed(0)
    lstm = normscope.LSTM(WIDTH, HIDDEN, bias=False)
    assert causes(lstm, at_every_step, starting_late(50)) == {"not_finite", "norm_of_equal_entries"}


def test_a_learned_start_of_zero_is_named() -> None:
    torch.manual_seed(0)
    lstm = normscope.LSTM(WIDTH, HIDDEN, learned_initial_state=True)
    found = diagnosed(lstm, at_every_step)
    assert [(each.name, each.where) for each in found.findings] == [("norm_of_equal_entries", "norms.l0.hh.0")]
    torch.nn.init.normal_(lstm.initial_h, std=0.1)  # pyright: ignore
    assert causes(lstm, at_every_step) == set()


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(WIDTH, HIDDEN),
    "lstm of two layers and directions": lambda: nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True),
    "gru": lambda: nn.GRU(WIDTH, HIDDEN),
    "rnn": lambda: nn.RNN(WIDTH, HIDDEN),
    "remembering lstm": lambda: normscope.LSTM(WIDTH, HIDDEN, norm=None, forget_bias=3.0),
    "normed lstm": lambda: normscope.LSTM(WIDTH, HIDDEN),
    "normed lstm with a bias": lambda: normscope.LSTM(WIDTH, HIDDEN, forget_bias=1.0),
    "rms normed lstm": lambda: normscope.LSTM(WIDTH, HIDDEN, norm="rms_norm"),
    "read-out": lambda: normscope.LSTM(WIDTH, HIDDEN, places="read-out"),
    "fastrnns": lambda: normscope.LSTM(WIDTH, HIDDEN, places="fastrnns", bias=False),
    "per gate": lambda: normscope.LSTM(WIDTH, HIDDEN, places="per gate"),
    "normed gru": lambda: normscope.GRU(WIDTH, HIDDEN),
    "haste": lambda: normscope.GRU(WIDTH, HIDDEN, places="haste"),
    "normed rnn": lambda: normscope.RNN(WIDTH, HIDDEN),
    "apart": lambda: normscope.RNN(WIDTH, HIDDEN, places="apart"),
    "zoneout": lambda: normscope.LSTM(WIDTH, HIDDEN, zoneout=(0.5, 0.05)),
    "wide": lambda: nn.LSTM(WIDTH, 256),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_layer_has_no_finding(name: str) -> None:
    torch.manual_seed(0)
    assert causes(HEALTHY[name](), at_every_step) == set()


@pytest.mark.parametrize("name", ["remembering lstm", "normed lstm", "normed lstm with a bias", "per gate"])
def test_a_layer_that_remembers_has_no_finding_where_only_the_last_step_is_read(name: str) -> None:
    torch.manual_seed(0)
    assert causes(HEALTHY[name](), at_the_last) == set()


def test_a_direction_whose_first_step_alone_is_read_is_said_and_not_named() -> None:
    torch.manual_seed(0)
    found = diagnosed(nn.LSTM(WIDTH, HIDDEN, bidirectional=True), at_the_last, torch.randn(10, 4, WIDTH))
    assert found.findings == ()
    assert "reaches 1 of the steps" in found.readings["recurrent"]


def test_one_step_has_nothing_to_remember() -> None:
    torch.manual_seed(0)
    assert causes(with_bias(nn.LSTM(WIDTH, HIDDEN), 1, -5.0), at_every_step, torch.randn(1, 4, WIDTH)) == set()


def test_every_cause_says_what_to_do() -> None:
    assert len({cause.name for cause in RECURRENT_CAUSES}) == 5
    assert all(cause.title and cause.remedy.endswith(".") for cause in RECURRENT_CAUSES)
