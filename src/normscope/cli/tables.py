"""What a person reads in the terminal: a study's verdict, and lists."""

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.results import ArmSummary, Summary

WIDE = 120
"""Columns from which the cost of an arm has room."""

NARROWEST = 40
"""Columns that a table needs to be read."""

_PASSES = ("forward", "backward")

STYLES = {"better": "bold green", "worse": "bold red", "fails": "bold red", "equivalent": "cyan", "baseline": "dim"}
"""The colour of a verdict, by its first word; the words say it all."""

# To what a label, and the words of a verdict, may be folded.
_ARM_WIDTH, _VERDICT_WIDTH = 10, 14


def open_console(*, stderr: bool = False) -> Console:
    """Open the terminal; one that says it has fewer than `NARROWEST` columns, or none, is taken to have as many."""
    console = Console(stderr=stderr)
    return console if console.width >= NARROWEST else Console(stderr=stderr, width=NARROWEST)


@contextlib.contextmanager
def results_alone(wanted: bool) -> Iterator[TextIO]:
    """Give standard output, and keep it for results: what else is printed inside goes to standard error.

    So it is for anybody's code, and for the processes that it starts.

    Args:
        wanted: Whether it is to be so; else standard output is given as it is.
    """
    if not wanted:
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            open(kept, "w", encoding=sys.stdout.encoding, errors="replace", closefd=False) as output,
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield output
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def verdict_table(summary: Summary, arms: Sequence[ArmSummary], title: str, *, width: int) -> Table:
    """Draw the verdicts, and beside them the numbers for which there is room; the page has them all.

    What an arm costs is left out below 120 columns; the adjusted p, then the interval, where the arm and its verdict
    need the room.
    """
    metric = summary.metric
    places = max(0, 1 - math.floor(math.log10(summary.margin)))
    table = Table(title=_text(title), caption=_text(_caption(summary)), caption_justify="left", title_justify="left")
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1)
    intervals = [arm.interval and [f"{end:+.{places}f}" for end in arm.interval] for arm in arms]
    interval = f"{100 * (1 - summary.alpha):g} % interval"
    numbers = {
        f"mean {metric['unit']}": [_number(arm.mean, f".{places}f") for arm in arms],
        "diff.": [_number(arm.difference, f"+.{places}f") for arm in arms],
        interval: [" to ".join(ends or ()) for ends in intervals],
        "adj. p": [_number(arm.p_adjusted, ".3f") for arm in arms],
    }
    # The peak is measured on accelerators; what autograd keeps is counted everywhere.
    memory = "peak_bytes" if any(arm.peak_bytes is not None for arm in arms) else "saved_bytes"
    costs = {
        "ms/step": [_number(arm.step_ms, ".2f") for arm in arms],
        "MB peak" if memory == "peak_bytes" else "MB saved": [_megabytes(getattr(arm, memory)) for arm in arms],
        "parameters": [_number(arm.parameters, ",d") for arm in arms],
    }
    least = _ARM_WIDTH + _VERDICT_WIDTH
    if width < WIDE or _room(numbers | costs, width, gap=3) < least:
        costs = {}
    for name in ("adj. p", interval):
        if _room(numbers | costs, width, gap=3) < least:
            del numbers[name]
    room, folded = _room(numbers | costs, width, gap=3), False
    if tight := room < least:
        table.padding = 0
        folded = _room(numbers, width, gap=1) < least
        room = max(2, _room(numbers, width, gap=1, folded=folded))
    arm_width = max(1, room * _ARM_WIDTH // least) if tight else room - _VERDICT_WIDTH
    table.add_column("arm", overflow="fold", max_width=arm_width, width=arm_width if tight else None)
    for name, cells in numbers.items():
        table.add_column(_text(name), justify="right", overflow="fold", width=_longest(name, cells, folded=folded))
    table.add_column("verdict", overflow="fold", min_width=_VERDICT_WIDTH, width=room - arm_width if tight else None)
    for name in costs:
        table.add_column(name, justify="right", no_wrap=True)
    for place, arm in enumerate(arms):
        style = next((style for word, style in STYLES.items() if arm.verdict.startswith(word)), "")
        table.add_row(
            _text(arm.label),
            *(cells[place] for cells in numbers.values()),
            _text(arm.verdict, style),
            *(cells[place] for cells in costs.values()),
        )
    return table


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """Draw plain rows of words."""
    table = Table(title=_text(title, "table.title"), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(_text(column), no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def cost_tables(costs: Mapping[str, Any]) -> Iterable[Table]:
    """Draw what norms cost, a table for every shape in every dtype, from ``Costs.to_dict()``."""
    groups: dict[tuple[int, int, str], list[Mapping[str, Any]]] = {}
    for cost in costs["costs"]:
        groups.setdefault((cost["rows"], cost["width"], cost["dtype"]), []).append(cost)
    for (rows, width, dtype), group in groups.items():
        table = Table(title=_text(f"{rows:,} rows of {width:,} in {dtype}"), title_justify="left", box=box.SIMPLE_HEAD)
        table.padding = (0, 1, 0, 0)
        table.add_column("norm", no_wrap=True)
        for head in ("fwd µs", "bwd µs", "ratio", "fwd lim.", "bwd lim.", "B/entry"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("ratio to", no_wrap=True)
        for cost in group:
            low, high = cost["quartiles"]
            table.add_row(
                cost["norm"],
                f"{cost['forward_us']:,.1f}",
                f"{cost['backward_us']:,.1f}",
                Text(f"{cost['ratio']:.2f}", "green" if high < 1 else "red" if low > 1 else ""),
                # Nothing is near a limit that moves no data.
                *(["", ""] if cost["norm"] == "none" else [f"{100 * cost[f'{k}_limit']:.0f} %" for k in _PASSES]),
                f"{cost['saved_bytes'] / (rows * width):.2f}",
                cost["against"],
            )
        yield table


def _text(words: str, style: str = "") -> Text:
    """Show words as they are: no markup is obeyed, and no escape sequence of a card reaches the terminal."""
    return Text("".join(letter for letter in " ".join(words.split()) if letter.isprintable()), style=style)


def _room(numbers: Mapping[str, Sequence[str]], width: int, *, gap: int, folded: bool = False) -> int:
    """Count what is left for the arm and its verdict, where the columns and the edges are ``gap`` apart."""
    taken = sum(_longest(head, cells, folded=folded) for head, cells in numbers.items())
    return width - taken - gap * (len(numbers) + 2) - 1


def _longest(head: str, cells: Sequence[str], *, folded: bool) -> int:
    return max(map(len, (*(head.split() if folded else [head]), *cells)))


def _caption(summary: Summary) -> str:
    metric = summary.metric
    better = "higher" if metric["higher_is_better"] else "lower"
    noise = summary.noise["words"] if summary.noise else "not measured yet"
    return (
        f"{metric['name']}, {better} is better; difference from {summary.baseline} over paired seeds; "
        f"margin {summary.margin:g} {metric['unit']}. Noise floor: {noise}."
        + (f" Scored as {metric['signature']}." if metric.get("signature") else "")
    )


def _megabytes(count: int | None) -> str:
    return _number(None if count is None else count / 1e6, ".1f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
