"""Keeps the processes that compute one study apart, so that they do not all try the same run."""

from dataclasses import dataclass, field
from random import Random

from normscope.results.store import StudyFolder
from normscope.studies.plan import RunSpec

__tracebackhide__ = True

LISTED_PER_CALL = 500
"""Names of folders that a file system gives in one call, at least: as many questions about single runs cost more."""

CHECKS_WHEN_BUSY = 1
"""Number of runs of others that a process checks at a time, to show how far the study is."""

CHECKS_WHEN_IDLE = 10
"""The same when it waits for them."""


@dataclass(kw_only=True)
class Apart:
    """The place of one process in the queue of a study.

    Alone, it goes through the queue in order, seed by seed. A process that meets a run of another one goes on at a seed
    chosen at random; where it wastes as many calls as a listing takes, it lists the runs that have been begun, and
    leaves them to the others until nothing else is left.
    """

    study: StudyFolder
    """Folder of the study."""
    wasted: int = field(default=0, init=False)
    """Runs of others that it met since the last listing."""
    random: Random = field(default_factory=Random, init=False)
    """Source of the places; no result depends on it."""

    def move(self, queue: list[RunSpec], elsewhere: dict[str, RunSpec]) -> None:
        """Go on elsewhere in the queue after a run of another process.

        Args:
            queue: Runs to be tried, in their order; changed in place.
            elsewhere: Runs that others compute, by name; those that are found to be begun are added.
        """
        self.wasted += 1
        if self.wasted > 1 + len(queue) // LISTED_PER_CALL:
            self.wasted, begun = 0, frozenset(self.study.begun())
            elsewhere |= {spec.id: spec for spec in queue if spec.id in begun}
            queue[:] = [spec for spec in queue if spec.id not in begun]
        if queue:
            place = self.random.randrange(len(queue))
            while place and queue[place - 1].seed == queue[place].seed:
                place -= 1
            queue[:] = queue[place:] + queue[:place]
