"""An engine without worker processes, for studies whose workers are not what is tested."""

from collections.abc import Callable, Sequence

from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute


class InThisProcess:
    """Computes runs one after another, here."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute those that are not there yet."""
        for spec in specs:
            if not study.run(spec.id).finished():
                state = execute(spec, study, lambda step, loss: False)
                callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))
