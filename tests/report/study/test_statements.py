"""Sentences of the page about itself, in every state of a study."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope.report import write_report
from normscope.results import summarize
from normscope.results.store import write_json


def page_of(path: Path, **changed: object) -> str:
    """Change the card of a study, and return the text of its page in one line."""
    card = json.loads((path / "card.json").read_text())
    write_json(path / "card.json", card | changed)
    summarize(path).write(path)
    text = re.sub(
        r"<(style|script|svg)\b.*?</\1>", " ", write_report(path).read_text(encoding="utf-8"), flags=re.DOTALL
    )
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture
def study(make_study: Callable, recipe: type, tmp_path: Path) -> Path:
    return make_study(tmp_path / "study", recipe(arms=3, seeds=10, evaluations=5))


def end_otherwise(path: Path, label: str, state: str, reason: str, *, tuned: bool = False) -> None:
    """Let the first run of an arm end in another state."""
    summary = summarize(path)
    arms = summary.untuned if tuned and summary.untuned else summary.arms
    run = next(arm for arm in arms if arm.label == label).runs[0]
    file = path / "runs" / str(run.id) / "result.json"
    write_json(file, json.loads(file.read_text()) | {"state": state, "value": None, "reason": reason})


def test_a_finished_study_was_specified_before_its_first_run(study: Path) -> None:
    page = page_of(study)
    assert "Study specification Written before the first run." in page
    assert "3 arms, 10 seeds each, 2 000 steps" in page.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert "xploratory" not in page
    assert "planned" not in page.replace("belong to no planned run", "").lower()


def test_a_study_with_later_seeds_is_exploratory_at_every_verdict(study: Path) -> None:
    page = page_of(study, changes=[6])
    assert "Written before the first run" not in page
    assert "Changed after results could be seen. The p values are exploratory: 4 of 10 seeds came after" in page
    answer = page[page.index(" Answer ") : page.index("Study specification")]
    assert "Exploratory: 4 of 10 seeds came after results could be seen." in answer
    summary = json.loads((study / "summary.json").read_text())
    claims = [arm["verdict"] for arm in summary["arms"] if re.match("better|worse|equivalent", arm["verdict"])]
    assert claims
    assert all("exploratory: 4 of 10 seeds came after results could be seen" in words for words in claims)
    assert answer.count("exploratory: 4 of 10") == 2  # That of the pairs beside failures, too.


def test_an_unfinished_study_counts_the_runs_of_every_arm(half_study: Path) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", (half_study / "report.html").read_text(encoding="utf-8")).split())
    assert "7 arms, 10 seeds each planned" in text
    done = json.loads((half_study / "summary.json").read_text())["arms"]
    counts = ", ".join(f"{arm['label']} {sum(run['state'] == 'done' for run in arm['runs'])} of 10" for arm in done)
    assert f"Runs that are done: {counts}." in text
    assert "Planned seeds" in text
    assert not re.search(r"\b(better|worse|equivalent) than", text[: text.index("Study specification")])


@pytest.mark.parametrize("unit", [None, "padded tokens"])
def test_a_batch_has_the_unit_of_its_task_or_none(study: Path, unit: str | None) -> None:
    page = page_of(study, **({"batch_unit": unit} if unit else {}))
    assert ("steps, batches of 64 padded tokens" if unit else "steps, batches of 64 What counts") in page
    assert "64 examples" not in page


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("unscored", "could not be scored in 1 of 10 seeds"),
        ("failed", "could not be computed in 1 of 10 seeds"),
        ("diverged", "fails to train in 1 of 10 seeds"),
    ],
)
def test_a_run_without_a_value_is_named_by_its_state_alone(study: Path, state: str, words: str) -> None:
    assert "Runs without a value None: every run that ended has a value." not in page_of(study)
    for seed in (2, 5, 8):
        # The runs that the study began with diverged.
        label = "detach_norm"
        run = next(arm for arm in summarize(study).arms if arm.label == label).runs[seed]
        file = study / "runs" / str(run.id) / "result.json"
        write_json(file, json.loads(file.read_text()) | {"state": "done", "value": 96.0})
        (study / "runs" / str(run.id) / "examples.npy").unlink(missing_ok=True)
    assert "Runs without a value None: every run that ended has a value." in page_of(study)
    end_otherwise(study, "layer_norm_simple", state, "the reason of it")
    page = page_of(study)
    table = page[page.index("Runs without a value") : page.index("Learning curves")]
    assert f"layer_norm_simple 0 {state}" in table
    assert "the reason of it" in table
    answer = page[page.index(" Answer ") : page.index("Study specification")]
    assert words in answer
    others = {"fails to train", "could not be scored", "could not be computed"} - {words.partition(" in ")[0]}
    assert not [other for other in others if other in answer]


def test_a_tuned_study_shows_both_noises_and_the_untuned_failures(
    make_study: Callable, recipe: type, tmp_path: Path
) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=6, evaluations=5, tuned=True))
    end_otherwise(path, "layer_norm_simple", "unscored", "no score", tuned=True)
    page = page_of(path)
    assert "the tuned learning rates were added after the tuning" in page
    assert "each at its tuned learning rate" in page
    tuned, untuned = (json.loads((path / "summary.json").read_text())[side][0]["sd"] for side in ("arms", "untuned"))
    assert f"Noise floor, tuned: layer_norm varies by {tuned:.3g} %" in page
    assert f"Noise floor, untuned: layer_norm varies by {untuned:.3g} %" in page
    assert tuned != untuned
    table = page[page.index("Runs without a value") : page.index("Learning curves")]
    assert "layer_norm_simple untuned 0 unscored" in table


def test_a_study_before_its_tuning_says_so(study: Path) -> None:
    page = page_of(study, tune=True)
    assert "This study is not finished" in page
    assert "The learning rates have not been tuned yet." in page
    assert "The learning rates have not been tuned yet." not in page_of(study, tune=False)


def test_a_study_before_its_first_run_claims_nothing_of_its_runs(
    make_study: Callable, recipe: type, tmp_path: Path
) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=0))
    page = page_of(path, seeds=[0, 1, 2])
    assert "2 arms, 3 seeds each planned" in page
    assert "Runs without a value No run has ended yet." in page
    assert "layer_norm 0 of 3, layer_norm_simple 0 of 3." in page
    assert "layer_norm is the baseline; it has no value yet." in page
