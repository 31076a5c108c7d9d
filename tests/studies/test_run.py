"""One run under its lease."""

import ast
import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from normscope.data import DataDamaged
from normscope.norms import NORMS
from normscope.results.store import StudyFolder, write_json
from normscope.studies.lease import acquire
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute, fail, forget
from normscope.studies.spec import make_study
from normscope.tasks import UserFileChanged
from normscope.tasks.custom.sandbox import ProcessState


def spec() -> RunSpec:
    return plan(make_study("digits", norms=["layer_norm"], steps=20, seeds=[0]))[0]


def never(step: int, loss: float) -> bool:
    return False


def test_a_run_is_computed_once(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    assert execute(spec(), study, never) == "done"
    before = study.run(spec().id).result.stat().st_mtime_ns
    assert execute(spec(), study, never) == "elsewhere"
    assert study.run(spec().id).result.stat().st_mtime_ns == before
    described = json.loads(study.run(spec().id).description.read_text())
    assert described["label"] == "layer_norm"
    assert described["id"] == spec().id


def test_a_held_run_is_left_alone(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    folder.path.mkdir(parents=True)
    lease = acquire(folder.lease)
    assert lease is not None
    with lease:
        assert execute(spec(), study, never) == "elsewhere"
    assert not folder.finished()
    assert execute(spec(), study, never) == "done"


def test_a_stopped_run_can_go_on(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    assert execute(spec(), study, lambda step, loss: True) == "interrupted"
    assert study.run(spec().id).checkpoint.exists()
    assert execute(spec(), study, never) == "done"


def test_an_error_costs_the_run_and_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(width: int) -> nn.Module:
        raise RuntimeError("no such width")

    wanted = spec()
    monkeypatch.setitem(NORMS, "layer_norm", broken)
    study = StudyFolder(tmp_path)
    assert execute(wanted, study, never) == "failed"
    result: dict[str, Any] = json.loads(study.run(wanted.id).result.read_text())
    assert result["reason"] == "RuntimeError: no such width"
    assert "in broken" in (study.run(wanted.id).path / "error.txt").read_text()
    assert json.loads(study.run(wanted.id).description.read_text())["norm"] == "layer_norm"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DataDamaged("altered"), KeyboardInterrupt()])
def test_what_is_not_the_fault_of_the_run_leaves_it_resumable(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(width: int) -> nn.Module:
        raise error

    wanted = spec()
    monkeypatch.setitem(NORMS, "layer_norm", full)
    study = StudyFolder(tmp_path)
    with pytest.raises(type(error)) as raised:
        execute(wanted, study, never)
    # The lease is free at once, though the traceback, which is still here, holds the frame that took it.
    lease = acquire(study.run(wanted.id).lease)
    assert lease is not None
    with lease:
        assert raised.tb is not None
    assert not study.run(wanted.id).finished()


def test_a_run_that_could_not_be_scored_is_forgotten(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    folder.path.mkdir(parents=True)
    for state, kept in (("unscored", None), ("diverged", "diverged")):
        write_json(folder.result, {"schema": 1, "state": state, "value": None})
        forget(spec(), study)
        assert folder.state() == kept


def test_only_a_run_that_failed_is_forgotten(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    forget(spec(), study)
    assert fail(spec(), study, "no memory") == "failed"
    assert json.loads(folder.description.read_text())["norm"] == "layer_norm"
    folder.checkpoint.write_bytes(b"damaged")
    lease = acquire(folder.lease)
    assert lease is not None
    with lease:
        forget(spec(), study)
    assert folder.state() == "failed"
    forget(spec(), study)
    assert folder.state() is None
    assert not folder.checkpoint.exists()
    assert execute(spec(), study, never) == "done"
    forget(spec(), study)
    assert folder.state() == "done"


def own(name: str, *norms: str, seeds: tuple[int, ...] = (0,)) -> list[RunSpec]:
    return plan(make_study(name, norms=norms or ("layer_norm",), seeds=seeds))


def rows(study: StudyFolder, spec: RunSpec) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["valid_value"]) for row in study.run(spec.id).read_metrics()]


def test_an_error_of_theirs_costs_one_run_and_is_kept_as_theirs(user_file: Callable[..., str], tmp_path: Path) -> None:
    change = (
        "        return F.cross_entropy",
        "        if seed == 1:\n            batch.nonsense()\n        return F.cross_entropy",
    )
    study = StudyFolder(tmp_path / "study")
    specs = own(user_file(change), seeds=(0, 1, 2))
    assert [execute(spec, study, never) for spec in specs] == ["done", "failed", "done"]
    folder = study.run(specs[1].id)
    reason = json.loads(folder.result.read_text())["reason"]
    assert reason == "AttributeError: 'tuple' object has no attribute 'nonsense' (my_file.py, line 18)"
    told = folder.error.read_text()
    assert told.startswith("my_file.py:make failed:\nTraceback")
    assert "batch.nonsense()" in told
    assert "normscope/train" not in told


def test_an_error_in_their_own_loop_too(user_file: Callable[..., str], tmp_path: Path) -> None:
    change = ("            callback(step, value)", "            callback(step, value if seed != 1 else value.nonsense)")
    study = StudyFolder(tmp_path / "study")
    specs = own(user_file(change, driven=True), seeds=(0, 1, 2))
    assert [execute(spec, study, never) for spec in specs] == ["done", "failed", "done"]
    assert "value.nonsense" in study.run(specs[1].id).error.read_text()


def test_runs_of_one_seed_are_a_pair_to_the_order_of_the_batches_and_the_masks(
    user_file: Callable[..., str], tmp_path: Path
) -> None:
    # In a file: the module is another one for every run.
    told = tmp_path / "seen.txt"
    seen = (
        "            row = (seed, batch[0].sum().item(), model[3](torch.ones(64)).sum().item())\n"
        f"            with open({str(told)!r}, 'a', encoding='utf-8') as file:\n"
        "                file.write(f'{row}\\n')\n"
    )
    change = ("        return F.cross_entropy", f"        if model.training:\n{seen}        return F.cross_entropy")
    study = StudyFolder(tmp_path / "study")
    seen_by_run: list[list[tuple[int, float, float]]] = []
    for spec in own(user_file(change), "layer_norm", "none", "ada_norm", seeds=(0, 1)):
        told.unlink(missing_ok=True)
        assert execute(spec, study, never) == "done"
        seen_by_run.append([ast.literal_eval(row) for row in told.read_text().splitlines()])
    assert [len(rows) for rows in seen_by_run] == [12] * 6
    assert seen_by_run[0] == seen_by_run[1] == seen_by_run[2]
    assert seen_by_run[3] == seen_by_run[4] == seen_by_run[5]
    assert seen_by_run[0] != seen_by_run[3]
    assert len({order for _, order, _ in seen_by_run[0]}) == 8
    assert len({mask for _, _, mask in seen_by_run[0]}) > 4


def test_a_run_that_changes_everything_leaves_the_next_as_it_was(
    user_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = (
        "    x = torch.randn",
        "    if seed == 1:\n"
        "        import os\n"
        "        torch.set_default_dtype(torch.float64)\n"
        "        torch.manual_seed(9)\n"
        "        os.chdir('/')\n"
        "    x = torch.randn",
    )
    name = user_file(harm)
    monkeypatch.chdir(tmp_path)
    before = ProcessState.now()
    study, alone = StudyFolder(Path("study")), StudyFolder(Path("alone"))
    specs = own(name, seeds=(0, 1, 2))
    assert [execute(spec, study, never) for spec in specs] == ["done"] * 3
    assert ProcessState.now() == before
    execute(specs[2], alone, never)
    assert rows(study, specs[2]) == rows(alone, specs[2])


def test_a_file_that_goes_elsewhere_keeps_its_results_here(
    user_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = user_file(("\n\n\ndef make", "\n\nimport os\n\nos.chdir('/')\n\n\ndef make"))
    monkeypatch.chdir(tmp_path)
    (spec,) = own(name)
    assert execute(spec, StudyFolder(Path("study")), never) == "done"
    assert Path.cwd() == tmp_path
    assert StudyFolder(tmp_path / "study").run(spec.id).finished()


def test_a_stopped_run_of_theirs_goes_on_to_the_bit(
    user_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    (spec,) = own(user_file())
    whole, broken = StudyFolder(tmp_path / "whole"), StudyFolder(tmp_path / "broken")
    assert execute(spec, whole, never) == "done"
    assert execute(spec, broken, lambda step, loss: step == 7) == "interrupted"
    assert execute(spec, broken, never) == "done"
    assert rows(broken, spec) == rows(whole, spec)
    assert (broken.run(spec.id).examples).read_bytes() == (whole.run(spec.id).examples).read_bytes()


def test_a_file_that_was_edited_leaves_the_run_for_later(user_file: Callable[..., str], tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    (spec,) = own(user_file())
    own(user_file(("nn.ReLU", "nn.GELU")))
    with pytest.raises(UserFileChanged, match="put it back to go on"):
        execute(spec, study, never)
    assert not study.run(spec.id).finished()
    user_file()
    assert execute(spec, study, never) == "done"


@pytest.mark.parametrize("error", [MemoryError("too much"), GeneratorExit(), asyncio.CancelledError(), SystemExit(0)])
def test_what_no_except_takes_costs_the_run_too(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(width: int) -> nn.Module:
        raise error

    wanted = spec()
    monkeypatch.setitem(NORMS, "layer_norm", broken)
    study = StudyFolder(tmp_path)
    assert execute(wanted, study, never) == "failed"
    reason = json.loads(study.run(wanted.id).result.read_text())["reason"]
    assert reason == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert "in broken" in study.run(wanted.id).error.read_text()


def test_who_holds_a_run_is_written_while_it_does(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    (tmp_path / "theirs").write_text("theirs")
    folder.path.mkdir(parents=True)
    folder.holder.symlink_to(tmp_path / "theirs")
    told: list[str] = []

    def watch(step: int, loss: float) -> bool:
        told.append(folder.holder.read_text())
        return False

    assert execute(spec(), study, watch) == "done"
    assert told[0].startswith(f"process {os.getpid()} on ")
    assert not folder.holder.exists()
    assert (tmp_path / "theirs").read_text() == "theirs"
