"""One run under its lock."""

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from torch import nn

from normscope.catalogue import NORMS
from normscope.data import DataDamaged
from normscope.results.store import StudyFolder
from normscope.study import make_card
from normscope.study.execute import execute, fail, forget
from normscope.study.plan import RunSpec, plan


def spec() -> RunSpec:
    return plan(make_card("digits", norms=["layer_norm"], steps=20, seeds=[0]))[0]


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
    with FileLock(folder.lock):
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


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), DataDamaged("altered"), KeyboardInterrupt()]
)
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
    # The lock is free at once, though the traceback, which is still here, holds the frame that took it.
    with FileLock(study.run(wanted.id).lock).acquire(blocking=False):
        assert raised.tb is not None
    assert not study.run(wanted.id).finished()


def test_only_a_run_that_failed_is_forgotten(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    folder = study.run(spec().id)
    forget(spec(), study)
    assert fail(spec(), study, "no memory") == "failed"
    assert json.loads(folder.description.read_text())["norm"] == "layer_norm"
    folder.checkpoint.write_bytes(b"damaged")
    with FileLock(folder.lock):
        forget(spec(), study)
    assert folder.state() == "failed"
    forget(spec(), study)
    assert folder.state() is None
    assert not folder.checkpoint.exists()
    assert execute(spec(), study, never) == "done"
    forget(spec(), study)
    assert folder.state() == "done"
