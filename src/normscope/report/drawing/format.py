"""Numbers as text, and the answer of a study in sentences."""

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal, get_args

from normscope.results.per_arm import ArmSummary
from normscope.results.schema import FINAL_STATES
from normscope.results.statistics import Interval
from normscope.results.summary import Summary
from normscope.results.targets.record import Bounds
from normscope.results.verdict import FAILURES

MISSING = "\N{EM DASH}"
"""Placeholder for an undefined value."""

VerdictKind = Literal["better", "worse", "equivalent", "not enough evidence", "baseline", "open"]
"""First words of a verdict, which decide its colour; ``open`` for any other verdict."""
VERDICTS: tuple[VerdictKind, ...] = get_args(VerdictKind)[:-1]


def name_seeds(seeds: Sequence[int]) -> str:
    """Write seeds as ranges: ``0-9, 20``."""
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1][1:] = [seed]
        else:
            ranges.append([seed])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def decimals(margin: float) -> int:
    """Return the number of decimals that show a metric to a tenth of its margin; four for a margin of zero."""
    return 4 if margin <= 0 else max(0, 1 - math.floor(math.log10(margin)))


_DIGITS = 15
"""Number of decimal digits that a float has."""


def fixed(value: float, places: int, *, signed: bool = False, separator: str = "") -> str:
    """Write a number with a fixed number of decimals; with four digits and an exponent if a float has not so many."""
    fits = places <= _DIGITS and abs(value) < 10.0 ** (_DIGITS - places)
    return format(value, f"{'+' * signed}{separator}.{places}f" if fits else f"{'+' * signed}.4g")


def number(value: float | None, places: int, *, signed: bool = False) -> str:
    """Write a number with a proper minus sign; `MISSING` for None."""
    if value is None:
        return MISSING
    text = fixed(value, places, signed=signed, separator=",")
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}").replace(",", "\N{NARROW NO-BREAK SPACE}")


def span(interval: Interval | None, places: int) -> str:
    """Write an interval as ``[+0.1, +0.3]``."""
    if interval is None:
        return MISSING
    return f"[{number(interval[0], places, signed=True)}, {number(interval[1], places, signed=True)}]"


def probability(value: float | None) -> str:
    """Write a p-value; below a thousandth as ``< 0.001``."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def ratio(bounds: Bounds | None) -> str:
    """Write a ratio of times, or what is known of it: ``0.62``, ``0.55 to 0.71``, ``at most 0.5``, ``not bounded``."""
    low, high = bounds or (None, None)
    if low is None and high is None:
        return MISSING if bounds is None else "not bounded"
    ends = [significant(end) for end in (low, high) if end is not None]
    if len(ends) == 1:
        return f"at {'most' if low is None else 'least'} {ends[0]}"
    return ends[0] if low == high else " to ".join(ends)


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, without an exponent between 0.0001 and a million."""
    if value is None:
        return MISSING
    if value == 0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def rate(value: float | None) -> str:
    """Write a learning rate in its shortest form: ``0.003``, ``1e−5``."""
    return MISSING if value is None else f"{value:g}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def storage(count: int | None) -> str:
    """Write a number of bytes in binary units."""
    if count is None:
        return MISSING
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{significant(size)} {unit}"


def duration(seconds: float | None) -> str:
    """Write a duration in its two largest units."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{significant(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def change(value: float | None, places: int, unit: str) -> str:
    """Write a difference with its unit; a difference of percentages is in points."""
    return number(value, places, signed=True) + (f" {apart(unit)}".rstrip() if value is not None else "")


def apart(unit: str) -> str:
    """Return the unit of a difference: percentages differ by points."""
    return "points" if unit == "%" else unit


def level(alpha: float) -> str:
    """Write the level of the intervals: ``95 %`` where alpha is 0.05."""
    return f"{100 * (1 - alpha):g}\N{NARROW NO-BREAK SPACE}%"


def split_verdict(arm: ArmSummary) -> tuple[str, str]:
    """Split the verdict on an arm into its failures and the rest; either may be empty.

    The verdict of the baseline does not mention its failures; they are counted from its runs.
    """
    if arm.verdict == "baseline":
        ended = [state for state in arm.states if state in FINAL_STATES]
        counts = [(failure, ended.count(state)) for state, failure in FAILURES.items()]
        seeds = "seed" if len(ended) == 1 else "seeds"
        return "; ".join(f"{what} in {count} of {len(ended)} {seeds}" for what, count in counts if count), "baseline"
    parts = arm.verdict.split("; ")
    failures = list(takewhile(lambda part: part.startswith(tuple(FAILURES.values())), parts))
    return "; ".join(failures), "; ".join(parts[len(failures) :])


def verdict_kind(verdict: str) -> VerdictKind:
    """Return the kind of a verdict by its first words."""
    for kind in VERDICTS:
        if verdict.startswith(kind):
            return kind
    return "open"


def aside(verdict: str, kind: VerdictKind) -> str:
    """Return the text in brackets after the first words of a verdict."""
    return verdict.removeprefix(kind).strip().removeprefix("(").removesuffix(")")


def headline(summary: Summary) -> str:
    """Write the answer in one line: the numbers of arms that fail, are better, worse, equivalent, or undecided."""
    arms = [arm for arm in summary.arms if arm.label != summary.baseline]
    if not arms:
        return f"{summary.baseline} alone: there is nothing to compare it with."
    kinds = [outcome(arm) for arm in arms]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in OUTCOMES if kind in kinds)
    caution = f" {summary.caution[:1].upper()}{summary.caution[1:]}." if summary.caution else ""
    return f"{'1 arm' if len(arms) == 1 else f'{len(arms)} arms'} against {summary.baseline}: {counted}.{caution}"


_SOME_SEEDS = {
    "diverged": "failing to train in some seeds",
    "unscored": "not scored in some seeds",
    "failed": "not computed in some seeds",
}
OUTCOMES = (*_SOME_SEEDS.values(), "better", "worse", "equivalent", "undecided")
"""What :func:`outcome` can return, in the order in which a sentence names them."""


def outcome(arm: ArmSummary) -> str:
    """Return the result of an arm in a few words: its first failure, or else the kind of its verdict."""
    failures, rest = split_verdict(arm)
    first = next((words for state, words in _SOME_SEEDS.items() if failures.startswith(FAILURES[state])), None)
    kind = first or verdict_kind(rest)
    return "undecided" if kind in ("open", "not enough evidence", "baseline") else kind


def sentence(arm: ArmSummary, summary: Summary) -> str:
    """Write the result of one arm; the sentence continues after its name and its failures, which the page sets bold."""
    baseline, metric, margin = summary.baseline, summary.metric, summary.margin
    failures, rest = split_verdict(arm)
    if arm.label == baseline:
        if arm.mean is None:
            return "is the baseline; it has no value yet."
        value = f"{number(arm.mean, decimals(margin))} {metric['unit']}".strip()
        return f"is the baseline, with a mean {metric['name']} of {value}."
    facts = _facts(arm, summary)
    kind = verdict_kind(rest)
    if kind in ("better", "worse"):
        return f"is {kind} than {baseline} in {metric['name']}{rest.removeprefix(kind)}: {facts}."
    if kind == "equivalent":
        boundary = f"±{margin:g} {apart(metric['unit'])}".strip()
        side = rest.removeprefix(kind)
        return f"is equivalent to {baseline} in {metric['name']}{side}, within the margin of {boundary}: {facts}."
    if kind == "not enough evidence":
        reason = aside(rest, kind)
        if reason.startswith(("about", "over")):
            reason = f"it would take {reason} to decide"
        why = f" {reason[:1].upper()}{reason[1:]}." if reason else ""
        return f"cannot yet be said to differ from {baseline} in {metric['name']}, nor to equal it: {facts}.{why}"
    rest = rest[:1].upper() + rest[1:]
    return f"{rest}: {facts}." if failures else f"has no verdict of its own. {rest}: {facts}."


def _facts(arm: ArmSummary, summary: Summary) -> str:
    """Write the numbers behind a verdict."""
    if arm.difference is None:
        return "no pair of runs has finished"
    places = decimals(summary.margin)
    evidence = []
    if arm.interval is not None:
        evidence.append(f"{level(summary.alpha)} interval {span(arm.interval, places)}")
    if arm.p_adjusted is not None:
        p = probability(arm.p_adjusted)
        evidence.append(_unbroken(f"adjusted p {p}" if p.startswith("<") else f"adjusted p = {p}"))
    evidence.append(_unbroken("1 pair" if arm.pairs == 1 else f"{arm.pairs} pairs"))
    return f"{change(arm.difference, places, summary.metric['unit'])} ({'; '.join(evidence)})"


def _unbroken(text: str) -> str:
    """Replace spaces by no-break spaces."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
