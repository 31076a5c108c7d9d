"""How far a study is, read from folders that are written by hand."""

import json
import os
import time
from pathlib import Path

import pytest

from normscope.results.progress import Running, Stage, StudyState, read_state
from normscope.results.progress.state import SILENT_SECONDS
from normscope.results.store import write_json
from support.command_line import CommandLine
from support.study_folders import Study


def study_in(path: Path, *, seeds: int = 4, **card) -> Study:
    """Write the card of a study of two arms that names its runs."""
    arms = [
        {**Study.arm(label), "runs": {str(seed): f"{label}-{seed}" for seed in range(seeds)}}
        for label in ("layer_norm", "none")
    ]
    return Study(path, seeds=range(seeds), arms=arms, **card)


def run(study: Study, label: str, seed: int, value: float | None = 1.0, seconds: float = 60.0, **more):
    more.setdefault("result", {"seconds": seconds})
    return study.run(label, seed, value, name=f"{label}-{seed}", **more)


def hold(study: Study, label: str, seed: int, *, ago: float = 30.0, silent: float = 0.0) -> None:
    """Write what a process leaves that began a while ago, and that has been silent since."""
    folder = run(study, label, seed, None, state="interrupted")
    folder.holder.write_text(f"process 1{seed} on node{seed}\n")
    now = time.time()
    os.utime(folder.holder, (now - ago, now - ago))
    os.utime(folder.metrics, (now - silent, now - silent))


def test_runs_are_counted_and_the_time_left_is_estimated(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    for seed, seconds in enumerate((60.0, 100.0, 80.0)):
        run(study, "layer_norm", seed, seconds=seconds)
    run(study, "none", 0, state="diverged", value=None)
    # Two processes, one at step 40 of 100; a run that was interrupted waits.
    hold(study, "none", 1)
    hold(study, "none", 2, ago=10.0)
    (study.folder.run("none-2").metrics).unlink()
    run(study, "none", 3, None, state="interrupted")
    state = read_state(tmp_path)
    assert isinstance(state, StudyState)
    assert (state.waiting, len(state.running), dict(state.ended)) == (2, 2, {"done": 3, "diverged": 1})
    assert state.left == 4
    assert state.stage is None
    first, second = state.running
    assert isinstance(first, Running)
    assert (first.label, first.seed, first.holder, first.step, first.of) == ("none", 1, "process 11 on node1", 40, 100)
    assert (second.seed, second.step) == (2, 0)
    assert abs(time.time() - 30.0 - first.since) < 20.0
    # 80 s per run by the median: two that wait, 0.6 and 1 that run, on two processes.
    assert state.minutes == pytest.approx((2 * 80 + 0.6 * 80 + 80) / 2 / 60)


def test_a_process_that_was_killed_is_silent_and_computes_nothing(tmp_path: Path) -> None:
    study = study_in(tmp_path, seeds=2)
    run(study, "layer_norm", 0)
    hold(study, "none", 0, ago=3000.0, silent=SILENT_SECONDS + 60.0)
    state = read_state(tmp_path)
    assert [each.is_silent for each in state.running] == [True]
    assert state.minutes is None
    # A sign of life of its claim is enough.
    study.folder.run("none-0").lease.touch()
    state = read_state(tmp_path)
    assert [each.is_silent for each in state.running] == [False]
    assert state.minutes == pytest.approx(2.6)


def test_a_study_with_looks_counts_the_runs_of_its_look(tmp_path: Path) -> None:
    study = study_in(tmp_path, seeds=10, looks={"pairs": [6, 8, 10], "spending": "kim_demets"})
    for seed in range(6):
        run(study, "layer_norm", seed, 5.0 + seed % 3)
    differences = (0.4, 0.6, -0.2, 0.7, 0.5)
    for seed, difference in enumerate(differences):
        run(study, "none", seed, 5.0 + seed % 3 + difference)
    state = read_state(tmp_path)
    assert state.stage == Stage(kind="look", number=1, pairs=(6, 8, 10))
    assert (state.waiting, state.left) == (1, 1)
    run(study, "none", 5, 7.3)
    hold(study, "none", 6)
    state = read_state(tmp_path)
    assert state.stage == Stage(kind="look", number=2, pairs=(6, 8, 10))
    assert (state.waiting, len(state.running), dict(state.ended)) == (3, 1, {"done": 12})


def test_a_study_that_is_tuned_is_at_its_trials(tmp_path: Path) -> None:
    study_in(tmp_path, tune=True)
    assert read_state(tmp_path).stage == Stage(kind="tuning")
    trials = study_in(tmp_path / "tuning")
    content = {"schema": 1, "grid": [0.1, 0.2, 0.3], "seeds": [1000], "arms": ["layer_norm", "none"]}
    write_json(tmp_path / "tuning" / "tuning.json", content)
    run(trials, "layer_norm", 0)
    hold(trials, "none", 1)
    state = read_state(tmp_path)
    assert (state.waiting, dict(state.ended)) == (4, {"done": 1})
    assert [(each.label, each.seed) for each in state.running] == [("none", 1)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("result.json", "{", "result.json is not valid JSON"),
        ("result.json", '{"schema": 1, "state": "odd", "value": 1}', "has state 'odd'"),
        ("metrics.jsonl", '{"step": "x"}\n', "the last line of .*metrics.jsonl has step 'x', expected a whole number"),
        ("metrics.jsonl", "\x00\x01\n", "the last line of .*metrics.jsonl is not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_file(name: str, text: str, words: str, tmp_path: Path) -> None:
    study = study_in(tmp_path)
    hold(study, "none", 0)
    (study.folder.run("none-0").path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_state(tmp_path)


def test_a_folder_without_a_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no study"):
        read_state(tmp_path)
    Study(tmp_path)
    with pytest.raises(ValueError, match="does not name its runs"):
        read_state(tmp_path)


def test_status_is_printed_in_eighty_columns_and_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    here = CommandLine(capfd)
    study = study_in(tmp_path, seeds=25)
    run(study, "layer_norm", 0)
    hold(study, "layer_norm", 1, silent=SILENT_SECONDS + 60.0, ago=SILENT_SECONDS + 60.0)
    for seed in range(23):
        hold(study, "none", seed)
    told = here("status", str(tmp_path), COLUMNS="80")
    assert told.returncode == 0, told.stderr
    assert max(map(len, told.stdout.splitlines())) <= 80
    assert told.stdout.startswith("Does it help? 25 waiting, 24 running, 1 done.\n")
    words = " ".join(told.stdout.split())
    for each in ("none seed 4", "process 14 on node4", "30 s", "40 of 100", "(silent for", "and 4 more"):
        assert each in words
    content = json.loads(here("status", str(tmp_path), "--json").stdout)
    assert (content["left"], content["ended"], len(content["running"])) == (49, {"done": 1}, 24)
    for seed in range(25):
        for label in ("layer_norm", "none"):
            run(study, label, seed)
    told = here("status", str(tmp_path))
    assert told.stdout.endswith("All runs have ended: `normscope report` has the results.\n")
