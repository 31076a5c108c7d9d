"""The interface of engines, which compute the runs of a study on this machine or on a cluster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from normscope.errors import NormscopeError
from normscope.results.store import StudyFolder
from normscope.studies.plan import RunSpec

__tracebackhide__ = True

GRACE_SECONDS = 30.0
"""Time that an interrupted run has to finish its step and write its checkpoint before its process is killed."""


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """A change of state or the progress of a run."""

    spec: RunSpec
    """Specification of the run."""
    state: str
    """``"planned"``, ``"running"``, a final state, or ``"elsewhere"`` if another process computes the run."""
    step: int
    """Number of optimizer updates so far."""
    note: str = ""
    """Message for the user, such as which process the engine is waiting for."""
    idle: bool = False
    """Whether the engine has nothing left to do but to wait for the process that computes this run."""


class Engine(Protocol):
    """Computes runs; engine and study communicate only through the run folders."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        """Compute the unfinished runs, and return when every run has a result.

        An engine holds the lease of each run that it computes, skips finished runs, and on ``KeyboardInterrupt`` leaves
        every unfinished run resumable before it re-raises the exception.

        Args:
            specs: The runs.
            study: Folder of the study.
            callback: Called with an event at each progress and change of state.

        Raises:
            KeyboardInterrupt: If the user interrupts it.
            EngineError: If no run can be computed.
        """
        ...


class EngineError(NormscopeError, RuntimeError):
    """The engine cannot compute runs, such as when the workers do not start, or the disk is full."""
