"""An engine without worker processes, for studies whose workers are not what is tested."""

from collections.abc import Callable, Sequence

from normscope.results.store import StudyFolder
from normscope.study.engine import RunEvent
from normscope.study.execute import execute
from normscope.study.plan import RunSpec


class InThisProcess:
    """Computes runs one after another, here."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, tell: Callable[[RunEvent], None]) -> None:
        """Compute those that are not there yet."""
        for spec in specs:
            if not study.run(spec.id).finished():
                state = execute(spec, study, lambda step, loss: False)
                tell(RunEvent(spec=spec, state=state, step=spec.recipe.steps))
