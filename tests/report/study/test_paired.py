"""Seed by seed: pairs are joined by seed, and a broken run is a cross at the worse edge."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from normscope.report.drawing.palette import ArmStyle, arm_styles
from normscope.report.study.folder import StudyRecord, read_study
from normscope.report.study.paired import common_scale, pairs


@pytest.fixture(scope="module")
def study(whole_study: Path) -> StudyRecord:
    return read_study(whole_study)


def _style(study: StudyRecord, label: str) -> ArmStyle:
    return arm_styles([arm.label for arm in study.summary.arms], study.summary.baseline)[label]


def _draw(study: StudyRecord, label: str, *, higher: bool = True) -> ET.Element:
    metric = {**study.summary.metric, "higher_is_better": higher}
    summary = replace(study.summary, metric=metric)
    return ET.fromstring(
        pairs(study.of(label), study.of("layer_norm"), _style(study, label), summary, (95.5, 98.5), name="p")
    )


def test_every_seed_is_a_line_and_two_marks(study: StudyRecord) -> None:
    root = _draw(study, "ada_norm")
    tips = [group.findtext("title") or "" for group in root.iter("g") if group.find("title") is not None]
    assert len(tips) == 30
    for left, right in zip(study.of("layer_norm"), study.of("ada_norm"), strict=True):
        assert tips.count(f"seed {left.seed}: {left.value:.2f} % → {right.value:.2f} %") == 3


def test_wins_are_counted_by_the_direction_of_the_metric(study: StudyRecord) -> None:
    ours, theirs = study.of("ada_norm"), study.of("layer_norm")
    ahead = sum((one.value or 0) > (other.value or 0) for one, other in zip(ours, theirs, strict=True))
    words = _draw(study, "ada_norm").findtext("desc") or ""
    assert words.startswith(f"ada_norm is ahead in {ahead} and behind in {10 - ahead} pairs")
    turned = _draw(study, "ada_norm", higher=False).findtext("desc") or ""
    assert turned.startswith(f"ada_norm is ahead in {10 - ahead} and behind in {ahead} pairs")


@pytest.mark.parametrize(("higher", "edge"), [(True, 198.0), (False, 12.0)])
def test_a_broken_run_is_at_the_worse_edge(study: StudyRecord, higher: bool, edge: float) -> None:
    root = _draw(study, "detach_norm", higher=higher)
    ends = []
    for group in root.iter("g"):
        if (group.findtext("title") or "").endswith("→ diverged"):
            ends += [float(use.get("y", "")) for use in group.iter("use") if float(use.get("x", "")) > 100]
    assert ends == [edge] * 3
    assert (root.findtext("desc") or "").endswith("3 of its runs ended without a value.")


def test_pairs_are_joined_by_seed_whatever_their_order(study: StudyRecord) -> None:
    shuffled = replace(study, runs=tuple(reversed(study.runs)))
    assert ET.tostring(_draw(study, "dyt")) == ET.tostring(_draw(shuffled, "dyt"))


def test_a_seed_that_comes_twice_is_refused(study: StudyRecord) -> None:
    runs = study.of("dyt")
    with pytest.raises(ValueError, match="dyt has 11 runs for 10 seeds: a seed comes twice"):
        pairs([*runs, runs[0]], study.of("layer_norm"), _style(study, "dyt"), study.summary, (95, 99), name="p")


def test_an_arm_far_from_the_rest_has_a_scale_of_its_own() -> None:
    values = {"a": [97.0, 97.4, 97.2, 96.9], "b": [97.1, 97.5, 97.3, 97.0], "c": [97.0, 12.0]}
    scales = common_scale(values)
    assert scales["a"] == scales["b"]
    assert scales["a"][0] > 90
    assert scales["c"][0] < 12


def test_a_scale_without_values_exists() -> None:
    assert common_scale({"a": []}) == {"a": (0.0, 1.0)}
