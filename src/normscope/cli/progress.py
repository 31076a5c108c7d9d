"""What a person sees while a study runs, and while a data set is fetched."""

import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_SECONDS = 30.0
"""How often a line is printed where there is no terminal to draw in."""


# States of a run that has not ended.
_GOING = ("planned", "running", "elsewhere")


class StudyProgress:
    """One bar for the study in updates, and the run that moved last; plain lines where there is no terminal.

    It knows the runs that it was told of, the finished ones included, and grows with them.

    Args:
        console: Where it draws.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.runs: dict[str, tuple[str, int, int]] = {}
        self.noted: set[tuple[str, str]] = set()
        self.told_at = self.started_at = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("updates"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("", total=None)

    def __enter__(self) -> "StudyProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def callback(self, identity: str, name: str, state: str, step: int, *, of: int, note: str = "") -> None:
        """Take an event of a run.

        Args:
            identity: Which run.
            name: For people.
            state: As :class:`normscope.studies.engines.engine.RunEvent` has it.
            step: Updates made.
            of: Updates that the run will have made.
            note: Printed, once.
        """
        if note and (identity, note) not in self.noted:
            self.noted.add((identity, note))
            self.console.print(f"{name}: {note}", markup=False, highlight=False, soft_wrap=True)
        before = self.runs.get(identity)
        if state == "elsewhere" and before is not None:
            step = max(step, before[1])
        self.runs[identity] = (state, step, of)
        states = Counter(state for state, _, _ in self.runs.values())
        finished = sum(count for state, count in states.items() if state not in _GOING)
        bad = "".join(f", {count} {state}" for state, count in states.items() if state not in (*_GOING, "done"))
        words = f"{finished} of {len(self.runs)} runs{bad} \N{MIDDLE DOT} {name}"
        made = sum(step for _, step, _ in self.runs.values())
        total = sum(of for _, _, of in self.runs.values())
        self.progress.update(self.bar, completed=made, total=total, description=words)
        now = time.monotonic()
        # What is announced is no news.
        moved = before is not None and before != self.runs[identity]
        if (
            moved
            and not self.console.is_terminal
            and (now - self.told_at > LINE_SECONDS or (finished == len(self.runs) and state not in _GOING))
        ):
            self.told_at = now
            seconds = f"{now - self.started_at:.0f} s"
            self.console.print(
                f"{words}: {made / total:.0%} of the updates after {seconds}", markup=False, soft_wrap=True
            )


class DownloadProgress:
    """A bar a file while data sets are fetched; a line a file where there is no terminal. Silent if nothing is.

    Args:
        console: Where it draws.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "DownloadProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Take what was fetched of a file so far, in bytes; a total of 0 is one that nobody knows."""
        if name not in self.bars:
            self.progress.start()
            self.bars[name] = self.progress.add_task(name, total=total or None)
            if not self.console.is_terminal:
                size = f", {total / 1e6:.1f} MB" if total else ""
                self.console.print(f"fetching {name}{size}", markup=False, highlight=False)
        self.progress.update(self.bars[name], completed=done)
