"""What an engine is: the seam at which a cluster can take the place of this machine's processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from normscope.results.store import StudyFolder
from normscope.studies.plan import RunSpec

__tracebackhide__ = True

GRACE_SECONDS = 30.0
"""How long a run that is stopped may take to end its step and write its checkpoint; then its process is ended."""


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """Something happened to a run."""

    spec: RunSpec
    """The run."""
    state: str
    """``"planned"``, ``"running"``, a final state, or ``"elsewhere"``: another process has it."""
    step: int
    """Updates made so far."""
    note: str = ""
    """What a person should know who waits for it, in words: on whom, and for how long."""


class Engine(Protocol):
    """Brings runs to their end. The run folders are the whole interface between engine and study."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Return when every run has a result, whoever computed it.

        An engine computes a run only while it holds the run's lock, never computes a finished run, and on
        ``KeyboardInterrupt`` leaves every unfinished run resumable before it lets the exception through.

        Raises:
            KeyboardInterrupt: If the user stopped it.
            EngineError: If runs cannot be computed here at all.
        """
        ...


class EngineError(RuntimeError):
    """Runs cannot be computed: workers do not start, or the disk is full."""
