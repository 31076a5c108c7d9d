"""Progress bars of studies and downloads."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

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
"""Minimum interval between printed lines if the output is not a terminal."""

_PACKAGE = Path(__file__).resolve().parents[1]
_UNFINISHED = ("planned", "running", "elsewhere")


class StudyProgress:
    """A progress bar of a study in optimizer updates, with the most recent run; plain lines without a terminal.

    The total includes every run that has been reported, finished or not.

    Args:
        console: Console to draw on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.runs: dict[str, tuple[str, int, int]] = {}
        self.states: Counter[str] = Counter()
        self.made = self.total = 0
        self.look = ""
        self.printed_notes: set[tuple[str, str]] = set()
        self.printed_at = self.started_at = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.bar = self.progress.add_task("", total=None, unit="updates")

    def __enter__(self) -> "StudyProgress":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def begin_look(self, look: int, pairs: Sequence[int]) -> None:
        """Say from here on which look the runs are for.

        Args:
            look: Number of the look, from 1 on.
            pairs: Number of pairs at each look.
        """
        self.look = f"look {look} of {len(pairs)}, at {pairs[look - 1]} seeds: "

    def callback(self, identity: str, name: str, state: str, step: int, *, of: int, note: str = "") -> None:
        """Update the bar with an event of a run.

        Args:
            identity: Identifier of the run.
            name: Name of the run to display.
            state: State, as in :class:`normscope.studies.engines.engine.RunEvent`.
            step: Number of updates so far.
            of: Total number of updates of the run; 0 if it is unknown.
            note: Message to print once.
        """
        if note and (identity, note) not in self.printed_notes:
            self.printed_notes.add((identity, note))
            self.console.print(f"{name}: {note}", markup=False, highlight=False, soft_wrap=True)
        before = self.runs.get(identity)
        if state == "elsewhere" and before is not None:
            step = max(step, before[1])
        self.runs[identity] = (state, step, of)
        if before is not None:
            self.states[before[0]] -= 1
        self.states[state] += 1
        self.made += step - (before[1] if before else 0)
        self.total += of - (before[2] if before else 0)
        states = +self.states
        finished = sum(count for state, count in states.items() if state not in _UNFINISHED)
        bad = "".join(f", {count} {state}" for state, count in states.items() if state not in (*_UNFINISHED, "done"))
        status = f"{self.look}{finished} of {len(self.runs)} runs{bad} \N{MIDDLE DOT} {name}"
        made, total = self.made, self.total
        if total:
            self.progress.update(self.bar, completed=made, total=total, description=status)
        else:
            self.progress.update(self.bar, completed=finished, total=len(self.runs), description=status, unit="runs")
        now = time.monotonic()
        # The first event of a run only announces it.
        moved = before is not None and before != self.runs[identity]
        if (
            moved
            and not self.console.is_terminal
            and (now - self.printed_at > LINE_SECONDS or (finished == len(self.runs) and state not in _UNFINISHED))
        ):
            self.printed_at = now
            seconds = f"{now - self.started_at:.0f} s"
            share = f": {made / total:.0%} of the updates" if total else ""
            self.console.print(f"{status}{share} after {seconds}", markup=False, soft_wrap=True)


@contextmanager
def sentences() -> Iterator[None]:
    """Print normscope's own warnings in the block to standard error as sentences, without their place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            if not Path(filename).is_relative_to(_PACKAGE):
                others(message, category, filename, lineno, *rest)
                return
            Console(stderr=True).print(
                f"Warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True
            )

        warnings.showwarning = show
        yield


class DownloadProgress:
    """One progress bar per downloaded file; one line per file without a terminal.

    Args:
        console: Console to draw on.
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
        """Update the bar of a file.

        Args:
            name: Name of the file.
            done: Bytes downloaded so far.
            total: Size in bytes; 0 if unknown.
        """
        if name not in self.bars:
            self.progress.start()
            self.bars[name] = self.progress.add_task(name, total=total or None)
            if not self.console.is_terminal:
                size = f", {total / 1e6:.1f} MB" if total else ""
                self.console.print(f"fetching {name}{size}", markup=False, highlight=False)
        self.progress.update(self.bars[name], completed=done)
