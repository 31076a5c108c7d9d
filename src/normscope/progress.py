"""What a person sees while a study runs, and while a data set is fetched."""

import time
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


class StudyProgress:
    """One bar for the study in updates, and the runs that are going on now; plain lines where there is no terminal.

    Args:
        console: Where it draws.
        runs: Number of runs.
        updates: Updates of all runs together.
        done: Runs that were finished before.
    """

    def __init__(self, console: Console, *, runs: int, updates: int, done: int, done_updates: int) -> None:
        self.console, self.runs, self.finished = console, runs, done
        self.steps: dict[str, int] = {}
        self.bad: dict[str, int] = {}
        self.updates, self.done_updates = updates, done_updates
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
        self.bar = self.progress.add_task(self._words(""), total=updates, completed=done_updates)

    def __enter__(self) -> "StudyProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def tell(self, identity: str, label: str, seed: int, state: str, step: int) -> None:
        """Take an event of a run."""
        self.steps[identity] = step
        if state not in ("running", "elsewhere"):
            self.finished += 1
            if state != "done":
                self.bad[state] = self.bad.get(state, 0) + 1
        words = self._words(f"{label} seed {seed}")
        completed = self.done_updates + sum(self.steps.values())
        self.progress.update(self.bar, completed=completed, description=words)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.told_at > LINE_SECONDS or self.finished == self.runs):
            self.told_at = now
            share = completed / self.updates
            self.console.print(f"{words}: {share:.0%} of the updates after {now - self.started_at:.0f} s", markup=False)

    def _words(self, now: str) -> str:
        bad = "".join(f", {count} {state}" for state, count in self.bad.items())
        return f"{self.finished} of {self.runs} runs{bad}" + (f" · {now}" if now else "")


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
        """Take what was fetched of a file so far, in bytes."""
        if name not in self.bars:
            self.progress.start()
            self.bars[name] = self.progress.add_task(name, total=total)
            if not self.console.is_terminal:
                self.console.print(f"fetching {name}, {total / 1e6:.1f} MB", markup=False, highlight=False)
        self.progress.update(self.bars[name], completed=done)
