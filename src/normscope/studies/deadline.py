"""When a call of compare returns before its study has ended: its time is up, or other processes compute the rest."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from normscope.studies.engines.engine import RunEvent
from normscope.studies.spec import StudySpec

__tracebackhide__ = True


def check_limits(study_spec: StudySpec, *, minutes: float | None, keep_going: bool) -> None:
    """Check the options that say when a study with looks stops, as for :func:`normscope.compare`.

    Raises:
        ValueError: If the study has no looks, or the time is not above zero.
    """
    for name, is_given in (("minutes", minutes is not None), ("keep_going", keep_going)):
        if is_given and study_spec.looks is None:
            raise ValueError(f"{name} is for studies with looks: add until_decided, or give looks")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")


class TimeIsUp(KeyboardInterrupt):
    """The time of a study is up; an engine ends its runs as if the user had interrupted it."""


class LeftToOthers(KeyboardInterrupt):
    """Other processes compute all runs that are left, and this one has waited long enough."""


@dataclass
class Deadline:
    """Passes on the events of runs until the time is up, or nothing is left to do but to wait for other processes."""

    callback: Callable[[RunEvent], None]
    """Receives every event."""
    minutes: float | None
    """Time for all runs; None for no limit."""
    leave_after: float | None = None
    """Seconds of idle waiting after which the other processes are left alone; None to wait for them."""

    def __post_init__(self) -> None:
        if self.leave_after is not None and not self.leave_after >= 0:
            raise ValueError(f"leave_after must be a number of seconds, 0 or more, got {self.leave_after}")
        self.may_leave = False
        self.started_at = time.monotonic()
        self.idle_since: float | None = None

    def __call__(self, event: RunEvent) -> None:
        """Pass on an event.

        Raises:
            TimeIsUp: If the time is up.
            LeftToOthers: If the engine has been idle for long enough, and ``may_leave`` is set.
        """
        self.callback(event)
        now = time.monotonic()
        if self.minutes is not None and now - self.started_at > 60 * self.minutes:
            # Only once: a second one would kill the workers before they have written their checkpoints.
            self.minutes = None
            raise TimeIsUp
        if event.state != "elsewhere":
            self.idle_since = None
        elif event.idle:
            self.idle_since = now if self.idle_since is None else self.idle_since
            if self.may_leave and self.leave_after is not None and now - self.idle_since >= self.leave_after:
                self.may_leave = False
                raise LeftToOthers
