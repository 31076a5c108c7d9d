"""Every rule of recurrent layers on both sides of its threshold, on real measurements with one number changed."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import normscope
from normscope.diagnostics.measured import Measured
from normscope.diagnostics.recurrent import LayerSteps, step_profile
from normscope.diagnostics.recurrent.profile import LOST
from normscope.diagnostics.recurrent.rules import (
    CLOSED,
    MOST_BELOW,
    MOST_LOST,
    RECURRENT_CAUSES,
    SATURATED,
    SATURATED_LATER,
)
from normscope.diagnostics.rules import name_causes

STEPS = 6
A_LITTLE = 1e-3


@pytest.fixture(scope="module")
def layer() -> LayerSteps:
    torch.manual_seed(0)
    lstm = normscope.LSTM(4, 8)
    (steps,) = step_profile(lstm, torch.randn(STEPS, 3, 4), lambda m, x: m(x)[0].square().mean())
    return steps


def causes(layer: LayerSteps, first_update: dict[str, float] | None = None, **changes: Any) -> set[str]:
    changed = replace(layer, **changes)
    measured = Measured(gradients=[], stacks=[], doubles=[], ranges=[], recurrent=[changed], first_update=first_update)
    return {finding.name for finding in name_causes(measured)}


def test_the_layer_by_itself_has_no_finding(layer: LayerSteps) -> None:
    assert causes(layer) == set()
    assert len(RECURRENT_CAUSES) == 5


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_gate_is_closed_beyond_its_threshold_on_average(layer: LayerSteps, sign: int) -> None:
    line = (CLOSED + sign * A_LITTLE - 0.1, *(None,) * (STEPS - 2), CLOSED + sign * A_LITTLE + 0.1)
    named = {"forget_gate_closed"} if sign > 0 else set()
    assert causes(layer, closed={"forget gate": line}) == named
    assert causes(layer, closed={"input gate": line}) == set()
    assert causes(layer, kind="GRU", closed={"update gate": line}) == named


@pytest.mark.parametrize("sign", [-1, 1])
def test_gates_are_saturated_earlier_before_training(layer: LayerSteps, sign: int) -> None:
    named = {"gates_saturated"} if sign > 0 else set()
    update = {"post": 0.0, "output_change": 0.0, "common_after": 0.0}
    for limit, first_update in ((SATURATED, update), (SATURATED_LATER, None)):
        line = (limit + sign * A_LITTLE,) * STEPS
        assert causes(layer, first_update, saturated={"candidate": line}) == named
        assert causes(layer, first_update, saturated={"forget gate": line, "read-out of c": line}) == set()


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_norm_counts_from_half_of_the_rows_of_one_step(layer: LayerSteps, sign: int) -> None:
    line = (0.0, MOST_BELOW + sign * A_LITTLE, *(0.0,) * (STEPS - 2))
    for place, norm in enumerate(layer.norms):
        norms = [*layer.norms]
        norms[place] = replace(norm, below_eps=line)
        named = sign > 0 and norm.place != "ih"
        assert causes(layer, norms=tuple(norms)) == ({"norm_of_equal_entries"} if named else set())
    alone = (replace(layer.norms[0], below_eps=line),)
    assert causes(layer, norms=alone) == ({"norm_of_equal_entries"} if sign > 0 else set())


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_gradient_vanishes_if_it_is_lost_and_falls(layer: LayerSteps, sign: int) -> None:
    lost = MOST_LOST + sign * A_LITTLE
    assert causes(layer, lost=lost, fade=0.9) == ({"gradient_vanishes_over_steps"} if sign > 0 else set())
    assert causes(layer, lost=lost, fade=1.0) == set()
    assert causes(layer, lost=lost, fade=None) == set()


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_gradient_explodes_beyond_the_resolution_of_float32(layer: LayerSteps, sign: int) -> None:
    growth = (1 + sign * A_LITTLE) / LOST
    assert causes(layer, growth=growth) == ({"gradient_explodes_over_steps"} if sign > 0 else set())
    assert causes(layer, growth=None, fade=None, overflow=max(sign, 0)) == (
        {"gradient_explodes_over_steps"} if sign > 0 else set()
    )


def test_a_gradient_is_not_named_beside_what_explains_it(layer: LayerSteps) -> None:
    for gradient in ({"lost": 1.0, "fade": 0.5}, {"growth": 1e9}):
        closed = {"forget gate": (1.0,) * STEPS}
        assert causes(layer, closed=closed, **gradient) == {"forget_gate_closed"}
        assert causes(layer, saturated={"candidate": (1.0,) * STEPS}, **gradient) == {"gates_saturated"}
        equal = (replace(layer.norms[2], below_eps=(1.0,) * STEPS),)
        assert causes(layer, norms=equal, **gradient) == {"norm_of_equal_entries"}


def test_several_layers_are_one_finding_with_the_worst(layer: LayerSteps) -> None:
    layers = [replace(layer, name=f"l{k}", growth=10.0**k, fade=2.0) for k in (8, 9, 3)]
    (finding,) = name_causes(Measured(gradients=[], stacks=[], doubles=[], ranges=[], recurrent=layers))
    assert finding.where == "l8, l9"
    assert finding.evidence.startswith("2 layers: at l9 ")
