"""Reading a study: what is missing or damaged is named, never guessed."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.report.folder import read_study


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
    with pytest.raises(ValueError, match=r"card\.json lacks margin, regime; see docs/studies\.md"):
        read_study(study)


def test_an_arm_without_a_verdict_is_refused(study: Path) -> None:
    content = json.loads((study / "summary.json").read_text())
    del content["arms"][1]["verdict"]
    (study / "summary.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"summary\.json lacks verdict"):
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
