"""Reading a study: what is missing or damaged is named, never guessed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.report.study.folder import read_study


@pytest.fixture
def study(make_study: Callable, recipe: type, tmp_path: Path) -> Path:
    return make_study(tmp_path / "study", recipe(arms=3, seeds=3, evaluations=4))


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_runs_are_read_with_their_state_and_metrics(study: Path) -> None:
    found = read_study(study)
    assert [run.seed for run in found.of("layer_norm")] == [0, 1, 2]
    broke = [run for run in found.runs if run.broke]
    assert [(run.label, run.seed, run.value) for run in broke] == [("detach_norm", 2, None)]
    assert [row["step"] for row in found.runs[0].metrics] == [500, 1000, 1500, 2000]
    assert found.table is not None


def test_unfinished_runs_have_no_result(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    found = read_study(make_study(tmp_path, recipe(arms=3, seeds=7, evaluations=4, unfinished=True)))
    states = [run.state for run in found.of("detach_norm")]
    assert states == ["done", "done", "diverged", "done", "done", "interrupted", "planned"]
    assert not found.of("detach_norm")[6].description


def test_no_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no study: there is no card\.json"):
        read_study(tmp_path)


def test_no_summary(study: Path) -> None:
    (study / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no summary\.json: run `normscope report"):
        read_study(study)


def test_a_file_cut_short(study: Path) -> None:
    text = (study / "summary.json").read_text()
    (study / "summary.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"summary\.json is not valid JSON"):
        read_study(study)


def test_a_lacking_field_is_named(study: Path) -> None:
    content = json.loads((study / "card.json").read_text())
    del content["margin"], content["regime"]
    (study / "card.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"card\.json lacks margin, regime; see docs/guides/studies\.md"):
        read_study(study)


def test_an_arm_without_a_verdict_is_refused(study: Path) -> None:
    content = json.loads((study / "summary.json").read_text())
    del content["arms"][1]["verdict"]
    (study / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"summary\.json lacks verdict in arms\[1\]; see docs/guides/studies\.md"):
        read_study(study)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("card.json", {"arms": ["a"]}, r"has arms\[0\] 'a', expected an object"),
        ("card.json", {"tuning": [1]}, r"has tuning \[1\], expected an object"),
        ("card.json", {"published": [{"rows": 3}]}, r"lacks label, source in published\[0\]"),
        ("summary.json", {"arms": []}, r"has arms \[\], expected one or more"),
        ("summary.json", {"arms": 5}, "has arms 5, expected a list"),
        ("summary.json", {"untuned": [5]}, r"has untuned\[0\] 5, expected an object"),
        ("summary.json", {"metric": {"name": "a", "unit": ""}}, "lacks higher_is_better in metric"),
        ("summary.json", {"noise": "x"}, "has noise 'x', expected null or an object"),
        ("summary.json", {"settings": [1]}, r"has settings \[1\], expected an object"),
    ],
)
def test_a_file_of_another_shape_is_refused(study: Path, name: str, changes: dict, words: str) -> None:
    _edit(study / name, **changes)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} {words}"):
        read_study(study)


def test_an_interval_has_two_ends(study: Path) -> None:
    content = json.loads((study / "summary.json").read_text())
    content["arms"][1]["interval"] = [0.5]
    (study / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"summary\.json has arms\[1\]\.interval \[0\.5\], expected 2 of them"):
        read_study(study)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.json", '{"schema": 1, "data": "x"}', r"run\.json has data 'x', expected an object"),
        ("result.json", '{"schema": 1}', r"result\.json lacks state, value; see docs"),
        ("metrics.jsonl", "5\n", r"metrics\.jsonl, line 1, is 5, expected an object"),
    ],
)
def test_a_run_of_another_shape_is_refused(study: Path, name: str, text: str, words: str) -> None:
    identity = json.loads((study / "summary.json").read_text())["arms"][0]["runs"][1]["id"]
    (study / "runs" / identity / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_study(study)


def test_card_and_summary_of_two_studies(study: Path) -> None:
    _edit(study / "card.json", margin=0.5)
    with pytest.raises(ValueError, match=r"card\.json has margin 0\.5, summary\.json has 0\.3"):
        read_study(study)


def test_a_baseline_that_is_no_arm(study: Path) -> None:
    _edit(study / "card.json", baseline="z")
    _edit(study / "summary.json", baseline="z")
    with pytest.raises(ValueError, match=r"the baseline 'z' is not among the arms \['layer_norm'"):
        read_study(study)


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_finished_run_that_lost_a_file(study: Path, name: str) -> None:
    identity = json.loads((study / "summary.json").read_text())["arms"][0]["runs"][1]["id"]
    (study / "runs" / identity / name).unlink()
    wanted = rf"layer_norm with seed 1 is done in summary\.json, but its {re.escape(name)} .*{identity}"
    with pytest.raises(FileNotFoundError, match=wanted):
        read_study(study)


def test_a_run_folder_that_is_gone(study: Path) -> None:
    shutil.rmtree(study / "runs")
    with pytest.raises(FileNotFoundError, match=r"is done in summary\.json, but its run\.json"):
        read_study(study)
