"""A plan that was changed after a result is exploratory; one that was complete before the first is not."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from normscope.report import write_report
from normscope.results.store import StudyFolder, write_json
from normscope.studies import compare
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute, fail
from normscope.studies.spec import make_study
from support.in_process import InThisProcess


class Nobody:
    """Computes nothing, as an engine does that is interrupted at once."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        raise KeyboardInterrupt


def study_of(seeds: int, **options: Any) -> Any:
    return make_study("digits", norms=["none", "layer_norm"], seeds=seeds, steps=4, **options)


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "card.json").read_text())


def test_seeds_that_are_added_before_any_result_are_in_the_plan(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(study_of(1), out=tmp_path, engine=Nobody())
    summary = compare(study_of(2), out=tmp_path, engine=InThisProcess())
    assert "changes" not in card_of(tmp_path)
    assert summary.caution == ""
    assert "Written before the first run." in (tmp_path / "report.html").read_text()


def test_seeds_that_are_added_after_one_run_are_exploratory(tmp_path: Path) -> None:
    first = study_of(1)
    with pytest.raises(KeyboardInterrupt):
        compare(first, out=tmp_path, engine=Nobody())
    execute(plan(first)[0], StudyFolder(tmp_path), lambda step, loss: False)
    summary = compare(study_of(3), out=tmp_path, engine=InThisProcess())
    assert card_of(tmp_path)["changes"] == [1]
    assert summary.caution == "exploratory: 2 of 3 seeds came after results could be seen"
    assert summary.regime == compare(study_of(3), out=tmp_path / "new", engine=InThisProcess()).regime
    again = compare(study_of(4), out=tmp_path, engine=InThisProcess())
    assert (again.changes, again.caution) == ((1, 3), "exploratory: 3 of 4 seeds came after results could be seen")
    assert "Written before the first run" not in (tmp_path / "report.html").read_text()


def test_a_specification_that_was_written_again_over_its_results_is_exploratory(tmp_path: Path) -> None:
    compare(study_of(2), out=tmp_path, engine=InThisProcess())
    for name in ("card.json", "summary.json", "summary.csv", "report.html", "workers.log"):
        (tmp_path / name).unlink(missing_ok=True)
    summary = compare(study_of(2), out=tmp_path, engine=InThisProcess())
    assert summary.caution == "exploratory: 2 of 2 seeds came after results could be seen"
    # Runs of another plan are no results of this one.
    for name in ("card.json", "summary.json", "summary.csv", "report.html"):
        (tmp_path / name).unlink()
    other = make_study("digits", norms=["rms_norm"], seeds=2, steps=4)
    assert compare(other, out=tmp_path, engine=InThisProcess()).caution == ""


class Chooses:
    """Computes runs here; one trial fails until it is computed again."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        for spec in specs:
            slow = spec.split.endswith("tune") and spec.label == "none" and spec.recipe.learning_rate < 0.1
            if self.fails and slow:
                study.run(spec.id).path.mkdir(parents=True, exist_ok=True)
                fail(spec, study, "on purpose")
            else:
                execute(spec, study, lambda step, loss: False)


def test_a_learning_rate_that_is_chosen_again_is_exploratory(tmp_path: Path) -> None:
    spec = study_of(1, tune=True)
    first = compare(spec, out=tmp_path, engine=Chooses(fails=True))
    assert (first.caution, first.untuned is None) == ("", False)
    page = (tmp_path / "report.html").read_text()
    assert "Written before the first run; the tuned learning rates were added after the tuning." in page
    # As if the trials that failed had been computed, and another rate were best.
    card = card_of(tmp_path)
    card["tuning"]["arms"]["none"]["chosen"] *= 3
    write_json(tmp_path / "card.json", card)
    again = compare(spec, out=tmp_path, engine=Chooses(fails=True))
    assert again.caution == "exploratory: a learning rate was chosen again after results could be seen"
    assert compare(spec, out=tmp_path, engine=Chooses(fails=True)).changes == (1,)


def test_more_seeds_are_added_to_a_card_of_an_older_version(tmp_path: Path) -> None:
    compare(study_of(1), out=tmp_path, engine=InThisProcess())
    card = card_of(tmp_path)
    del card["batch_unit"]
    write_json(tmp_path / "card.json", card | {"failure": "a run fails if its loss is not finite"})
    assert compare(study_of(2), out=tmp_path, engine=InThisProcess()).complete
    assert card_of(tmp_path)["batch_unit"] == "examples"


@pytest.mark.parametrize("broken", [1, 32])
@pytest.mark.parametrize("loop", [True, False])
def test_a_score_that_is_not_finite_is_told_as_that_everywhere(
    broken: int, loop: bool, user_file: Callable[..., str], tmp_path: Path
) -> None:
    # Before training every score is finite, so that no check before the first run can know.
    first = ("    def evaluate(", "    first = model[0].weight.detach().clone()\n\n    def evaluate(")
    scores = ("        return 100.0 * (", "        scores = 100.0 * (")
    ends = (
        " == y[parts[part]])\n",
        " == y[parts[part]])\n        if part == 'test' and not torch.equal(first, model[0].weight):\n"
        f"            scores[:{broken}] = float('nan')\n        return scores\n",
    )
    name = user_file(first, scores, ends, driven=loop)
    summary = compare(name, norms=["none", "layer_norm"], seeds=2, out=tmp_path / "study", engine=InThisProcess())
    assert {run.state for arm in summary.arms for run in arm.runs} == {"unscored"}
    assert summary.arms[0].verdict == (
        "could not be scored in 2 of 2 seeds; the baseline could not be scored in 2 of 2 seeds; no pair finished"
    )
    text = write_report(tmp_path / "study").read_text(encoding="utf-8")
    assert "fails to train" not in text
    assert f"{broken} of 32 examples was not finite" in text
