"""The seam: an engine of another make, a thread's worth of cluster, runs a study."""

from collections.abc import Callable, Sequence
from pathlib import Path

from normscope.results.store import StudyFolder
from normscope.studies import compare
from normscope.studies.engines.engine import Engine, RunEvent
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute
from normscope.studies.spec import make_study


class InThisProcess:
    """Computes runs one after another, here."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        for spec in specs:
            state = execute(spec, study, lambda step, loss: False)
            callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))


def test_another_engine_can_take_the_place_of_ours(tmp_path: Path) -> None:
    engine: Engine = InThisProcess()
    events: list[RunEvent] = []
    card = make_study("digits", norms=["none", "layer_norm"], seeds=[0, 1], steps=20)
    summary = compare(card, out=tmp_path, engine=engine, callback=events.append)
    assert summary.complete
    assert [event.state for event in events] == ["planned"] * 4 + ["done"] * 4
