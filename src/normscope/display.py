"""What a person sees in the terminal: the progress of a study, and its verdict."""

import math
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich import box
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
from rich.table import Table
from rich.text import Text

from normscope.results import ArmSummary, Summary

LINE_SECONDS = 30.0
"""How often a line is printed where there is no terminal to draw in."""

WIDE = 120
"""Columns from which the cost of an arm has room."""

STYLES = {"better": "bold green", "worse": "bold red", "fails": "bold red", "equivalent": "cyan", "baseline": "dim"}
"""The colour of a verdict, by its first word; the words say it all."""


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
            TextColumn("{task.description}"),
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
            TextColumn("{task.description}"),
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


def verdict_table(summary: Summary, arms: Sequence[ArmSummary], title: str, *, width: int) -> Table:
    """Draw the verdicts; what they cost is left to the page where the terminal is narrower than 120 columns."""
    metric = summary.card["metric"]
    places = max(0, 1 - math.floor(math.log10(summary.card["margin"])))
    table = Table(title=Text(title), caption=Text(_caption(summary)), caption_justify="left", title_justify="left")
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1)
    table.add_column("arm", overflow="fold")
    for name in (f"mean {metric['unit']}", "diff.", "95 % interval", "adj. p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=14)
    # The peak is measured on accelerators; what autograd keeps is counted everywhere.
    memory = "peak_bytes" if any(arm.peak_bytes is not None for arm in arms) else "saved_bytes"
    costs = ("ms/step", "MB peak" if memory == "peak_bytes" else "MB saved", "parameters") if width >= WIDE else ()
    for name in costs:
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        style = next((style for word, style in STYLES.items() if arm.verdict.startswith(word)), "")
        low, high = arm.interval or (None, None)
        cells = [
            Text(arm.label),
            _number(arm.mean, f".{places}f"),
            _number(arm.difference, f"+.{places}f"),
            "" if low is None else f"{low:+.{places}f} to {high:+.{places}f}",
            _number(arm.p_adjusted, ".3f"),
            Text(arm.verdict, style=style),
            _number(arm.step_ms, ".2f"),
            _megabytes(getattr(arm, memory)),
            _number(arm.parameters, ",d"),
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """Draw plain rows of words."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _caption(summary: Summary) -> str:
    metric = summary.card["metric"]
    better = "higher" if metric["higher_is_better"] else "lower"
    return (
        f"{metric['name']}, {better} is better; difference from {summary.baseline} over paired seeds; "
        f"margin {summary.card['margin']:g} {metric['unit']}. Noise floor: {summary.noise['words']}."
    )


def _megabytes(count: int | None) -> str:
    return _number(None if count is None else count / 1e6, ".1f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
