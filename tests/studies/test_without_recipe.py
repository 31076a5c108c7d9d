"""A training loop of the user's without a recipe: nothing that nobody measured is stated, and no option is ignored."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normscope import compare, make_study
from normscope.results.store import StudyFolder
from normscope.studies.plan import RunSpec, describe_training, plan
from normscope.studies.preflight import ArmMisfit, preflight
from support.command_line import CommandLine
from support.in_process import InThisProcess

Write = Callable[..., str]
NO_RECIPE = ("        recipe=Recipe(steps=12, batch_size=4, learning_rate=1e-2, evaluations=3),\n", "")
SILENT = ("            callback(step, value)\n", "            pass\n")
TAKES = ("    def train(model, callback):\n", "    def train(model, callback, recipe):\n")
OURS = (
    "steps",
    "batch_size",
    "evaluations",
    "precision",
    "compile",
    "optimizer",
    "schedule",
    "learning_rate",
    "warmup",
)


@pytest.mark.parametrize("silent", [True, False])
def test_no_file_states_what_nobody_measured(silent: bool, user_file: Write, tmp_path: Path) -> None:
    name = user_file(NO_RECIPE, *([SILENT] if silent else []), driven=True)
    compare(name, norms=["layer_norm", "none"], seeds=2, out=tmp_path / "study", engine=InThisProcess())
    study = StudyFolder(tmp_path / "study")
    card = study.read_card()
    assert {name: card.get(name) for name in OURS} == dict.fromkeys(OURS)
    assert {(arm["learning_rate"], arm["warmup"]) for arm in card["arms"]} == {(None, None)}
    assert card["regime"] == "my_file.py:make and its data"
    runs = [study.run(identity) for arm in card["arms"] for identity in arm["runs"].values()]
    for run in runs:
        assert not {*OURS} & run.read_description().keys()
        result = run.read_result()
        # A loop that reports its steps has counted them.
        assert (result["steps"], result["selected_step"]) == ((None, None) if silent else (12, 12))
        assert (result["step_ms"] is None) == silent
        assert result["seconds"] > 0
        assert [row["step"] for row in run.read_metrics()] == ([] if silent else [12])
    page = re.sub(r"<script.*?</script>|<style.*?</style>|data:[^\"]*", "", study.report.read_text(), flags=re.DOTALL)
    words = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    for made_up in ("1 000", "1,000", "0.001", "float32", "1 user-defined", "adam"):
        assert not re.search(rf"(?<![\w.]){made_up}\b", words), made_up
    assert "2 seeds each." in words


def test_the_command_line_states_no_updates(
    user_file: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--norms", "layer_norm", "--seeds", "0", "--out", str(tmp_path / "study"), "--workers", "1")
    told = CommandLine(capsys)("compare", user_file(NO_RECIPE, SILENT, driven=True), *words)
    assert told.returncode == 0
    assert "1 arm x 1 seed. Folder" in told.stdout
    assert "updates" not in told.stdout


def test_a_recipe_that_is_given_is_stated(user_file: Write) -> None:
    assert describe_training(make_study(user_file(driven=True))) == "12 updates of 4 examples"
    assert describe_training(make_study(user_file(driven=True)), batches=False) == "12 updates"
    assert describe_training(make_study(user_file(NO_RECIPE))) == "1,000 updates"
    assert describe_training(make_study(user_file(NO_RECIPE, TAKES, driven=True))) == ""
    assert describe_training(make_study(user_file(NO_RECIPE, TAKES, driven=True), steps=50)) == "50 updates"


def test_what_is_unknown_is_no_part_of_a_run_and_travels_to_the_workers(user_file: Write) -> None:
    (spec,) = plan(make_study(user_file(NO_RECIPE, driven=True), norms=["layer_norm"], seeds=1))
    assert "steps" in spec.unknown
    again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.id == RunSpec(**{**vars(spec), "unknown": ()}).id


@pytest.mark.parametrize("options", [{"steps": 1000}, {"steps": 5}, {"warmups": [0]}, {"warmups": [0, 3]}])
def test_options_that_would_change_nothing_are_refused(options: dict, user_file: Write) -> None:
    for changes in ([], [NO_RECIPE]):
        with pytest.raises(
            ValueError, match=r"trains by itself, so steps, warm-up, optimizer .*train\(model, callback, recipe\)"
        ):
            make_study(user_file(*changes, driven=True), norms=["layer_norm"], **options)
    make_study(user_file(TAKES, driven=True), norms=["layer_norm"], steps=10)


READS = ("        for step in range(1, 13):\n", "        for step in range(1, 1 + recipe.steps):\n")
AT_THE_END = (
    "        for step in range(1, 13):\n",
    "        for step in range(1, 13):\n            if step == 11 and recipe.steps: break\n",
)


@pytest.mark.parametrize("option", [{"steps": 5}, {"warmups": [3]}, {"tune": True}])
def test_a_loop_that_takes_the_recipe_and_does_not_read_it_is_refused(option: dict, user_file: Write) -> None:
    split = ("def make(norm, placement, seed):", "def make(norm, placement, seed, split):")
    name = user_file(TAKES, split, driven=True)
    preflight(make_study(name, norms=["layer_norm"], seeds=1))
    flag = {"steps": "--steps", "warmups": "--warmup", "tune": "--tune"}[next(iter(option))]
    with pytest.raises(ArmMisfit, match=f"and did not read it, so {flag} would change nothing: read recipe"):
        preflight(make_study(name, norms=["layer_norm"], seeds=1, **option))
    all_of_it = ("        optimizer =", "        recipe.learning_rate_at(0), recipe.steps\n        optimizer =")
    preflight(make_study(user_file(TAKES, split, all_of_it, driven=True), norms=["layer_norm"], seeds=1, **option))


def test_a_loop_may_read_its_recipe_late(user_file: Write) -> None:
    for changes in ([TAKES, READS], [TAKES, AT_THE_END, SILENT]):
        preflight(make_study(user_file(*changes, driven=True), norms=["layer_norm"], seeds=1, steps=5))
