"""Tables in the terminal: the verdicts of a study, costs of norms, and lists."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from normscope.report.drawing.format import decimals, fixed, ratio
from normscope.results import ArmSummary, Summary
from normscope.results.targets.record import name_target, split_target

WIDE = 120
"""Minimum terminal width for the cost columns."""

_WIDE_LOOK = 80
"""Minimum terminal width for the interval and the boundary of a look."""

NARROWEST = 40
"""Minimum width of a table."""

_PASSES = ("forward", "backward")

STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "fails": "bold red",
    "could": "bold red",
    "equivalent": "cyan",
    "baseline": "dim",
}
"""Style of a verdict by its first word."""

# Minimum widths to which labels and verdicts may be folded.
_ARM_WIDTH, _VERDICT_WIDTH = 10, 14


def open_console(*, stderr: bool = False) -> Console:
    """Open a console with a width of at least :data:`NARROWEST` columns."""
    console = Console(stderr=stderr)
    return console if console.width >= NARROWEST else Console(stderr=stderr, width=NARROWEST)


@contextlib.contextmanager
def stdout_for_results(enabled: bool) -> Iterator[TextIO]:
    """Reserve standard output for results: yield it, and redirect all other output in the block to standard error.

    The redirection also applies to custom tasks and to child processes.

    Args:
        enabled: Whether to redirect; otherwise standard output is yielded unchanged.
    """
    if not enabled:
        yield sys.stdout
        return
    sys.stdout.flush()
    original = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            open(original, "w", encoding=sys.stdout.encoding, errors="replace", closefd=False) as output,
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield output
    finally:
        os.dup2(original, 1)
        os.close(original)


def verdict_table(summary: Summary, arms: Sequence[ArmSummary], title: str, *, width: int) -> Table:
    """Build the table of verdicts, with the numbers that fit the width; the page shows all of them.

    The costs are omitted below :data:`WIDE` columns; then the adjusted p value and the interval, if labels and verdicts
    need their space.

    Args:
        summary: Summary of the study.
        arms: Arms to show, one row per arm.
        title: Title of the table.
        width: Width of the terminal.
    """
    metric = summary.metric
    places = decimals(summary.margin)
    table = Table(
        title=_text(title), caption=_text(_caption(summary, arms)), caption_justify="left", title_justify="left"
    )
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1)
    means, differences = [arm.mean for arm in arms], [arm.difference for arm in arms]
    interval = f"{100 * (1 - summary.alpha):g} % interval"
    numbers = {
        f"mean {metric['unit']}": ["" if mean is None else fixed(mean, places) for mean in means],
        "diff.": ["" if each is None else fixed(each, places, signed=True) for each in differences],
        interval: [_ends(arm.interval, places) for arm in arms],
        "adj. p": [_number(arm.p_adjusted, ".3f") for arm in arms],
    }
    # Peak memory is measured on accelerators only, memory saved by autograd on every device.
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


def look_tables(summary: Summary, *, width: int) -> Iterable[Table]:
    """Yield the tables of the last look of a study: for each arm its difference, the boundary, and the verdict.

    Args:
        summary: Summary of a study with looks that has reached one.
        width: Width of the terminal.
    """
    assert summary.looks is not None
    state, places = summary.looks, decimals(summary.margin)
    heading = f"Look {state.reached} of {len(state.pairs)}, at {state.pairs[state.reached - 1]} seeds"
    for arms, side in ((summary.arms, ""), (summary.untuned or (), ", untuned")):
        table = Table(title=_text(f"{heading}{side}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for name in ("arm", "diff.", *(("interval", "claimed from") if width >= _WIDE_LOOK else ()), "verdict"):
            is_number = name not in ("arm", "verdict")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
        for arm in arms:
            if not arm.looks:
                continue
            last = arm.looks[-1]
            bounds = "" if last.boundary is None else f"±{fixed(last.boundary, places)}"
            wide = (_ends(last.interval, places), bounds) if width >= _WIDE_LOOK else ()
            cells = (fixed(last.difference, places, signed=True), *wide)
            style = next((style for word, style in STYLES.items() if arm.verdict.startswith(word)), "")
            table.add_row(_text(arm.label), *cells, _text(arm.verdict, style))
        if table.row_count:
            yield table


def target_tables(summary: Summary, *, width: int) -> Iterable[Table]:
    """Yield a table per target: for each arm the number of runs that reached it, the time, its ratio, and the verdict.

    Args:
        summary: Summary of the study; one without targets has no table.
        width: Width of the terminal.
    """
    if summary.targets is None:
        return
    metric, interval = summary.targets.metric or summary.metric, f"{100 * (1 - summary.alpha):g} % interval"
    spacing = f", evaluations {summary.targets.resolution} apart" if summary.targets.resolution else ""
    for place, target in enumerate(summary.targets.values):
        for arms, side in ((summary.arms, ""), (summary.untuned or (), ", untuned")):
            heading = f"Updates to {name_target(target, metric['unit'])} in {metric['name']}{side}"
            margin = f"equivalent below a ratio of {summary.targets.margin:g}"
            table = Table(title=_text(heading), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
            table.caption, table.caption_justify = (
                _text(f"Ratios are to {summary.baseline}; {margin}{spacing}."),
                "left",
            )
            wide = (interval, "seconds", "adj. p") if width >= WIDE else (interval,) if width >= _WIDE_LOOK else ()
            for name in ("arm", "reached", "updates", "ratio", *wide, "verdict"):
                is_number = name not in ("arm", "verdict")
                table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
            for arm in arms:
                each = (arm.targets or ())[place]
                numbers = {
                    interval: "" if each.interval is None else ratio(each.interval),
                    "seconds": "" if each.ratio_seconds is None else ratio(each.ratio_seconds),
                    "adj. p": _number(each.p_adjusted, ".3f"),
                }
                # The column of runs that reached it says what the verdict begins with.
                _, words = split_target(each.verdict)
                style = next((style for word, style in STYLES.items() if words.startswith(word)), "")
                reached = _text(f"{each.reached} of {len(each.runs)}", "bold red" * (each.reached < len(each.runs)))
                table.add_row(
                    _text(arm.label),
                    reached,
                    _number(each.steps, ",.0f"),
                    "" if each.ratio is None else ratio(each.ratio),
                    *(numbers[name] for name in wide),
                    _text(words, style),
                )
            if table.row_count:
                yield table


def _ends(interval: tuple[float, float] | None, places: int) -> str:
    return " to ".join(fixed(end, places, signed=True) for end in interval or ())


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> Table:
    """Build a table of text."""
    table = Table(title=_text(title, "table.title"), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(_text(column), no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def cost_tables(costs: Mapping[str, Any]) -> Iterable[Table]:
    """Yield the cost tables of ``NormCosts.to_dict()``, one per shape and dtype."""
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
            table.add_row(
                cost["norm"],
                f"{cost['forward_us']:,.1f}",
                f"{cost['backward_us']:,.1f}",
                _ratio(cost),
                # The identity moves no data, so its limits are meaningless.
                *(["", ""] if cost["norm"] == "none" else [f"{100 * cost[f'{k}_limit']:.0f} %" for k in _PASSES]),
                f"{cost['saved_bytes'] / (rows * width):.2f}",
                cost["against"],
            )
        yield table


def recurrent_cost_tables(costs: Mapping[str, Any]) -> Iterable[Table]:
    """Yield the cost tables of ``RecurrentCosts.to_dict()``, one per cell, size and dtype."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cost in costs["costs"]:
        sizes = f"{cost['steps']:,} steps, batch {cost['batch']:,}, {cost['hidden']:,} units"
        groups.setdefault(f"{cost['cell']}, {sizes}, {cost['dtype']}", []).append(cost)
    for title, group in groups.items():
        table = Table(title=_text(title), title_justify="left", box=box.SIMPLE_HEAD)
        table.padding = (0, 1, 0, 0)
        table.add_column("norm", no_wrap=True)
        for head in ("fwd ms", "bwd ms", "ratio", "saved MB", "ratio"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("computed by", overflow="fold")
        for cost in group:
            plain = cost["norm"] is None
            table.add_row(
                _text(f"nn.{cost['cell'].upper()}" if plain else cost["norm"]),
                f"{cost['forward_ms']:,.2f}",
                f"{cost['backward_ms']:,.2f}",
                Text("") if plain else _ratio(cost),
                f"{cost['saved_bytes'] / 1e6:,.2f}",
                "" if plain else f"{cost['memory_ratio']:.2f}",
                _text(cost["computed_by"]),
            )
        yield table


def _ratio(cost: Mapping[str, Any]) -> Text:
    """Return a ratio, green or red if three quarters of the rounds are on one side of 1."""
    low, high = cost["quartiles"]
    return Text(f"{cost['ratio']:.2f}", "green" if high < 1 else "red" if low > 1 else "")


def _text(text: str, style: str = "") -> Text:
    """Convert to literal text: without markup, and without escape sequences that a study's files may contain."""
    return Text("".join(letter for letter in " ".join(text.split()) if letter.isprintable()), style=style)


def _room(numbers: Mapping[str, Sequence[str]], width: int, *, gap: int, folded: bool = False) -> int:
    """Return the width that remains for the label and the verdict, with ``gap`` between columns and at the edges."""
    taken = sum(_longest(head, cells, folded=folded) for head, cells in numbers.items())
    return width - taken - gap * (len(numbers) + 2) - 1


def _longest(head: str, cells: Sequence[str], *, folded: bool) -> int:
    return max(map(len, (*(head.split() if folded else [head]), *cells)))


def _caption(summary: Summary, arms: Sequence[ArmSummary]) -> str:
    metric = summary.metric
    better = "higher" if metric["higher_is_better"] else "lower"
    margin = f"{summary.margin:g} {metric['unit']}".strip()
    noise = (summary.noise_of(arms) or {"words": "not measured yet"})["words"]
    counts = {sum(run.value is not None for run in arm.runs) for arm in arms}
    early = [f"{arm.label} {arm.decided_at}" for arm in arms if arm.decided_at is not None]
    done = ", ".join(f"{label} {done} of {planned}" for label, (done, planned) in summary.progress.items())
    return (
        f"{metric['name']}, {better} is better; difference from {summary.baseline} over paired seeds; "
        f"margin {margin}. Noise floor: {noise}."
        + (f" Claims hold {summary.generalizes}." if summary.generalizes else "")
        + (f" Scored as {metric['signature']}." if metric.get("signature") else "")
        + "".join(f" Warning: {words}" for words in summary.warnings)
        + (" Means are over all finished runs of an arm, whose numbers differ." if len(counts) > 1 else "")
        + (f" Number of seeds at the decision: {', '.join(early)}." if early else "")
        + ("" if summary.complete else f" Not finished; runs that are done: {done}.")
        + (f" {summary.caution[:1].upper()}{summary.caution[1:]}." if summary.caution else "")
    )


def _megabytes(count: int | None) -> str:
    return _number(None if count is None else count / 1e6, ".1f")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
