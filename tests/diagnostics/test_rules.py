"""Every rule on both sides of its threshold, on real measurements with one number changed."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from normscope.diagnostics import CAUSES, Cause, Finding
from normscope.diagnostics.depth.watch import watch_depth
from normscope.diagnostics.diagnosis import diagnose
from normscope.diagnostics.gradients.at_norms import gradients_at_norms
from normscope.diagnostics.measured import Measured
from normscope.diagnostics.numeric_range import numeric_range
from normscope.diagnostics.recurrent.rules import RECURRENT_CAUSES
from normscope.diagnostics.rules import ALIKE, REPLACED, SMALLEST_HALF, name_causes
from normscope.inspection.norm_in_model import Unreachable
from support.planted import CASES, Case, text


def measured(case: Case) -> Measured:
    told = diagnose(case.model, case.batch, case.loss, **case.settings)
    with watch_depth(case.model) as watch:
        case.loss(case.model, case.batch)
    return Measured(
        gradients=told.gradients,
        stacks=told.stacks,
        doubles=watch.doubles,
        ranges=told.ranges,
        first_update=told.first_update,
        warmup=told.warmup,
    )


def causes(told: Measured) -> set[str]:
    return {finding.name for finding in name_causes(told)}


def test_every_planted_cause_has_a_rule() -> None:
    recurrent = {cause.name for cause in RECURRENT_CAUSES}
    assert set(CASES) == set(CAUSES) - {"overflow", "not_finite"} - recurrent


def test_a_finding_carries_what_its_cause_declares() -> None:
    (finding,) = name_causes(measured(CASES["double_norm"][0](0)))
    assert isinstance(finding, Finding)
    cause = CAUSES["double_norm"]
    assert isinstance(cause, Cause)
    assert (finding.name, finding.title, finding.remedy) == ("double_norm", cause.title, cause.remedy)
    assert all(name == each.name and each.title and each.remedy for name, each in CAUSES.items())


def test_warm_up_is_assessed_only_if_it_is_given() -> None:
    told = measured(CASES["post_norm_without_warm_up"][0](0))
    assert causes(told) == {"post_norm_without_warm_up"}
    assert causes(replace(told, warmup=None)) == set()
    assert causes(replace(told, first_update=None)) == set()
    assert told.first_update is not None
    for number, limit in (("output_change", REPLACED), ("common_after", ALIKE)):
        less = {**told.first_update, number: limit - 1e-6}
        assert causes(replace(told, first_update=less)) == set()
    assert causes(replace(told, first_update={**told.first_update, "post": 0.5})) == set()


def test_eps_is_named_by_variance_and_eps_together() -> None:
    told = measured(CASES["eps_too_small_for_half"][0](0))
    (worst, *_) = told.ranges
    for variance, named in ((SMALLEST_HALF, False), (SMALLEST_HALF / 2, True), (0.0, True)):
        changed = replace(worst, smallest_variance=variance)
        assert (causes(replace(told, ranges=[changed])) == {"eps_too_small_for_half"}) == named
    assert causes(replace(told, ranges=[replace(worst, precision="bfloat16")])) == set()
    constant = name_causes(replace(told, ranges=[replace(worst, smallest_variance=0.0, eps=0.0)]))
    assert "divided by zero" in constant[0].evidence


def test_overflow_is_named_beyond_the_largest_number() -> None:
    case = CASES["missing_final_norm"][1](0)
    ranges = numeric_range(case.model, case.batch, case.loss, precision="float16")
    for overflow, named in ((0.99, False), (1.01, True)):
        told = Measured(gradients=[], stacks=[], doubles=[], ranges=[replace(ranges[0], overflow=overflow)])
        assert (causes(told) == {"overflow"}) == named


@pytest.mark.parametrize(
    ("offset", "ratio", "named"), [(0.9, 1.0, False), (1.1, 1.0, True), (0.0, 0.2, True), (0, 4.1, True)]
)
def test_batch_norm_moments(offset: float, ratio: float, named: bool) -> None:
    told = measured(CASES["batch_norm_in_eval"][0](0))
    changed = [replace(told.ranges[0], running_offset=offset, running_ratio=ratio)]
    assert (causes(replace(told, ranges=changed)) == {"batch_norm_in_eval"}) == named


def test_weights_initialized_to_zero_are_not_decayed() -> None:
    told = measured(CASES["weights_near_zero"][0](0))
    (one, *_) = told.ranges
    assert causes(replace(told, ranges=[replace(one, zero_weights=1.0)])) == set()
    assert causes(replace(told, ranges=[replace(one, small_weights=0.5)])) == set()
    (finding, *_) = name_causes(replace(told, ranges=[one]))
    assert "weight decay on them is 2" in finding.evidence


def test_a_norm_with_another_reader_is_no_double() -> None:
    told = measured(CASES["double_norm"][0](0))
    (finding,) = name_causes(told)
    assert finding.where == "1.norm"
    changed = [replace(each, upstream_energy=each.upstream_energy * 1.01) for each in told.gradients]
    assert causes(replace(told, gradients=changed)) == set()


def test_a_final_norm_is_missed_only_on_a_residual_pre_stream() -> None:
    told = measured(CASES["missing_final_norm"][0](0))
    (stack,) = told.stacks
    for change in ({"final_norm": True}, {"placement": "post"}, {"placement": "mixed"}, {"residual": False}):
        assert causes(replace(told, stacks=[replace(stack, **change)])) == set()


def test_nothing_measured_is_nothing_named() -> None:
    assert name_causes(Measured(gradients=[], stacks=[], doubles=[], ranges=[])) == []


def test_gradients_alone_name_nothing() -> None:
    case = CASES["missing_final_norm"][1](0)
    seen = gradients_at_norms(case.model, case.batch, case.loss)
    assert name_causes(Measured(gradients=seen, stacks=[], doubles=[], ranges=[])) == []


def planted(part: str, number: float) -> Case:
    """A healthy Pre-LN model with one bad number in one of its weights."""
    case = text(0, "pre")
    with torch.no_grad():
        case.model.get_parameter(part).view(-1)[0] = number
    return case


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("stack.blocks.4.branch.output.weight", "stack.blocks.4"),
        ("stack.blocks.2.norm.weight", "stack.blocks.2"),
        ("embedding.weight", "stack.blocks.0"),
        ("head.weight", ""),
    ],
)
def test_what_is_not_finite_is_named_where_it_begins(part: str, where: str, number: float) -> None:
    case = planted(part, number)
    batch = torch.cat([case.batch, torch.zeros_like(case.batch[:1])])
    told = diagnose(case.model, batch, case.loss, learning_rate=1e-3, warmup=0)
    (finding,) = told.findings
    assert (finding.name, finding.where) == ("not_finite", where)
    assert f"The loss is {told.loss}" in finding.evidence
    assert next(iter(CAUSES)) == "not_finite"
    for words in told.readings.values():
        assert not re.search(r"\b(nan|inf)\b", words.replace("the loss is nan", "").replace("the loss is inf", ""))


def test_the_healthy_twin_is_finite() -> None:
    assert causes(measured(planted("head.weight", 0.5))) == set()


def test_a_gradient_that_is_not_finite_is_named_where_the_loss_is() -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch[:, :-1]) * 0).square().sum().sqrt()

    case = text(0, "pre")
    told = diagnose(case.model, case.batch, loss)
    (finding,) = told.findings
    assert (finding.name, finding.where) == ("not_finite", "stack.final_norm")
    assert (
        "The gradient is not finite at 9 norms; the first on the backward path is stack.final_norm" in finding.evidence
    )
    assert "The loss" not in finding.evidence


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_other_rules_ignore_numbers_that_are_not_finite(number: float) -> None:
    told = measured(CASES["unscaled_residual"][0](0))
    grown = replace(told.stacks[0], growth=number)
    assert causes(replace(told, stacks=[grown])) == set()
    ranges = measured(CASES["batch_norm_in_eval"][0](0)).ranges
    bad = replace(ranges[0], overflow=number, running_offset=number, smallest_variance=number, precision="float16")
    assert causes(replace(told, stacks=[], ranges=[bad])) == set()


def test_a_final_norm_that_cannot_be_measured_is_not_missed() -> None:
    told = measured(CASES["missing_final_norm"][0](0))
    for name, missed in (("", False), ("stack", False), (told.stacks[0].layers[0].name + ".branch", True)):
        unmeasured = [Unreachable(name=name, what="functional.layer_norm", why="it has no module")]
        assert (causes(replace(told, unmeasured=unmeasured)) == {"missing_final_norm"}) == missed


def test_a_final_norm_that_a_forward_computes_is_seen() -> None:
    class Ends(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Tensor) -> Tensor:
            return nn.functional.layer_norm(self.inner(pixels), (18,))

    case = CASES["missing_final_norm"][0](0)
    told = diagnose(Ends(case.model), case.batch, case.loss)
    assert told.findings == ()
    assert "functional" in told.unreached[0].what
