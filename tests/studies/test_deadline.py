"""A call that leaves the rest to other processes: when it may, and when it has to wait."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from normscope.results.store import StudyFolder
from normscope.studies import compare, make_study
from normscope.studies.deadline import Deadline, LeftToOthers, check_limits
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec
from support.in_process import InThisProcess


class Waiting:
    """An engine whose last run of every call is another process's, which ends it after some looks at it."""

    def __init__(self, *, ends_after: int | None) -> None:
        self.ends_after = ends_after
        self.waited: list[int] = []

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        *mine, last = specs
        InThisProcess().run(mine, study, callback)
        self.waited.append(0)
        while self.waited[-1] != self.ends_after:
            self.waited[-1] += 1
            callback(RunEvent(spec=last, state="elsewhere", step=0, idle=True))
        InThisProcess().run([last], study, callback)


def test_a_worker_leaves_when_others_compute_the_rest(tmp_path: Path) -> None:
    study = make_study("digits", norms=["none"], seeds=2, steps=2)
    engine = Waiting(ends_after=None)
    summary = compare(study, out=tmp_path, engine=engine, leave_after=0.0)
    assert engine.waited == [1]
    assert [run.state for run in summary.arms[0].runs] == ["done", "planned"]
    # What the last one writes must not be replaced by something older.
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "report.html").exists()
    engine = Waiting(ends_after=5)
    assert compare(study, out=tmp_path, engine=engine).complete
    assert engine.waited == [5]


def test_a_worker_waits_at_a_look_after_which_runs_follow_and_leaves_at_the_last(tmp_path: Path) -> None:
    study = make_study("digits", norms=["none", "layer_norm"], looks=[6, 7, 8], steps=2)
    engine = Waiting(ends_after=3)
    summary = compare(study, out=tmp_path, engine=engine, leave_after=0.0, keep_going=True)
    assert engine.waited == [3, 3, 1]
    assert summary.looks is not None
    assert summary.looks.reached == 2


def test_a_worker_waits_for_the_trials_of_the_tuning(tmp_path: Path) -> None:
    study = make_study("digits", norms=["none"], seeds=1, steps=2, tune=True)
    engine = Waiting(ends_after=2)
    compare(study, out=tmp_path, engine=engine, leave_after=0.0)
    assert engine.waited == [2, 1]


def test_only_idle_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    (spec,) = make_plan()
    deadline = Deadline(lambda event: None, None, leave_after=10.0)
    deadline.may_leave = True
    idle = RunEvent(spec=spec, state="elsewhere", step=0, idle=True)
    for at, event in (
        (0.0, idle),
        (9.0, idle),
        # A run of another process is tried again and got: the wait begins anew.
        (9.5, RunEvent(spec=spec, state="running", step=1)),
        (12.0, idle),
        (21.0, RunEvent(spec=spec, state="elsewhere", step=0)),
        (21.9, idle),
    ):
        now[0] = at
        deadline(event)
    now[0] = 22.0
    with pytest.raises(LeftToOthers):
        deadline(idle)
    # Once: a second interrupt would kill the workers.
    deadline(idle)


def make_plan() -> list[RunSpec]:
    from normscope.studies import plan

    return plan(make_study("digits", norms=["none"], seeds=1, steps=2))


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="leave_after must be a number of seconds, 0 or more, got -1"):
        Deadline(lambda event: None, None, leave_after=-1)
    with pytest.raises(ValueError, match="minutes is for studies with looks"):
        check_limits(make_study("digits", norms=["none"], seeds=1, steps=2), minutes=1.0, keep_going=False)
