"""The seam: an engine of another make, a thread's worth of cluster, runs a study."""

from pathlib import Path

from normscope.studies import compare
from normscope.studies.engines.engine import Engine, RunEvent
from normscope.studies.spec import make_study
from support.in_process import InThisProcess


def test_another_engine_can_take_the_place_of_ours(tmp_path: Path) -> None:
    engine: Engine = InThisProcess()
    events: list[RunEvent] = []
    study_spec = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=20)
    summary = compare(study_spec, out=tmp_path, engine=engine, callback=events.append)
    assert summary.complete
    assert [event.state for event in events] == ["planned"] * 4 + ["done"] * 4
