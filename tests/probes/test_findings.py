"""Every rule at both sides of its threshold, on real measurements that are changed in one number."""

from dataclasses import replace

import pytest
from planted import CASES, Case

from normscope.probes.depth_watch import watch_depth
from normscope.probes.diagnosis import diagnose
from normscope.probes.findings import ALIKE, CAUSES, REPLACED, SMALLEST_HALF, Measured, name_causes
from normscope.probes.norm_gradients import gradients_at_norms
from normscope.probes.numeric_range import numeric_range


def measured(case: Case) -> Measured:
    told = diagnose(case.model, case.batch, case.loss, **case.told)
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
    return {finding.cause for finding in name_causes(told)}


def test_every_planted_cause_has_a_rule() -> None:
    assert set(CASES) == set(CAUSES) - {"overflow"}


def test_warm_up_is_named_only_when_it_was_told() -> None:
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


def test_gains_that_start_at_zero_are_not_decayed_ones() -> None:
    told = measured(CASES["gains_near_zero"][0](0))
    (one, *_) = told.ranges
    assert causes(replace(told, ranges=[replace(one, zero_gains=1.0)])) == set()
    assert causes(replace(told, ranges=[replace(one, dead_gains=0.5)])) == set()
    (finding, *_) = name_causes(replace(told, ranges=[one]))
    assert "decays them by 2" in finding.evidence


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
