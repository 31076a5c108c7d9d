"""Numbers as a reader wants them, and the answer of a study in sentences."""

import math
from collections.abc import Mapping
from typing import Any

MISSING = "\N{EM DASH}"
"""What stands where nothing can be said."""

VERDICTS = ("better", "worse", "equivalent", "not enough evidence", "baseline")
"""The verdicts that the page has a colour for, by their first words."""


def decimals(margin: float) -> int:
    """Count the decimals that show a metric to a tenth of its margin; four where the margin is nothing."""
    return 4 if margin <= 0 else max(0, 1 - math.floor(math.log10(margin)))


def number(value: float | None, places: int, *, signed: bool = False) -> str:
    """Write a number with a true minus; `MISSING` for None."""
    if value is None:
        return MISSING
    text = f"{value:+,.{places}f}" if signed else f"{value:,.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}").replace(",", "\N{THIN SPACE}")


def span(interval: list[float] | None, places: int) -> str:
    """Write an interval as ``[+0.1, +0.3]``."""
    if interval is None:
        return MISSING
    return f"[{number(interval[0], places, signed=True)}, {number(interval[1], places, signed=True)}]"


def probability(value: float | None) -> str:
    """Write a p value; below a thousandth as ``< 0.001``."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent where that reads well."""
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
    """Write a time in its two largest units."""
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
    """Give the unit of a difference: percentages differ by points."""
    return "points" if unit == "%" else unit


def verdict_kind(verdict: str | None) -> str:
    """Give the first words of a verdict that `VERDICTS` knows, else ``open``."""
    return next((kind for kind in VERDICTS if (verdict or "").startswith(kind)), "open")


def broken(arm: Mapping[str, Any]) -> str:
    """Say in how many seeds an arm fails to train; empty where it never does."""
    ended = sum(run["state"] in ("done", "diverged", "failed") for run in arm["runs"])
    return f"fails to train in {arm['failures']} of {ended}" if arm["failures"] else ""


def headline(summary: Mapping[str, Any]) -> str:
    """Say the whole answer in one line: how many arms are better, worse, equivalent, open."""
    arms = [arm for arm in summary["arms"] if arm["label"] != summary["baseline"]]
    kinds = [verdict_kind(arm["verdict"]) for arm in arms]
    parts = [f"{kinds.count(kind)} {kind}" for kind in ("better", "worse", "equivalent") if kind in kinds]
    undecided = sum(kind not in ("better", "worse", "equivalent") for kind in kinds)
    if undecided:
        parts.append(f"{undecided} undecided")
    number_of = "1 arm" if len(arms) == 1 else f"{len(arms)} arms"
    text = f"Of {number_of} against {summary['baseline']}: {', '.join(parts)}."
    failing = sum(bool(arm["failures"]) for arm in summary["arms"])
    if not failing:
        return text
    verb = "fails" if failing == 1 else "fail"
    return f"{text} {failing} of all {len(summary['arms'])} arms {verb} to train in some seeds."


def sentence(arm: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Say what a study found about one arm, without its name in front: the page sets that in bold."""
    baseline, metric, margin = summary["baseline"], summary["metric"], summary["margin"]
    places = decimals(margin)
    if arm["label"] == baseline:
        value = f"{number(arm['mean'], places)} {metric['unit']}".strip()
        return (
            f"is the baseline: {metric['name']} {value} on average."
            if arm["mean"] is not None
            else "is the baseline; no run has ended yet."
        )
    if arm["difference"] is None:
        return f"cannot be judged yet: {arm['pairs']} finished pairs with {baseline}."
    found = change(arm["difference"], places, metric["unit"])
    evidence = []
    if arm["interval"] is not None:
        evidence.append(f"95 % interval {span(arm['interval'], places)}")
    if arm["p_adjusted"] is not None:
        p = probability(arm["p_adjusted"])
        evidence.append(f"adjusted p {p}" if p.startswith("<") else f"adjusted p = {p}")
    evidence.append("1 pair" if arm["pairs"] == 1 else f"{arm['pairs']} pairs")
    facts = f"{found} ({'; '.join(evidence)})"
    kind = verdict_kind(arm["verdict"])
    boundary = f"±{margin:g} {apart(metric['unit'])}".strip()
    if kind in ("better", "worse"):
        return f"is {kind} than {baseline} in {metric['name']}: {facts}."
    if kind == "equivalent":
        return f"is equivalent to {baseline} in {metric['name']}, within the margin of {boundary}: {facts}."
    more = arm.get("seeds_needed")
    wanted = f" About {more} more seeds would be needed." if more else ""
    return f"cannot be told apart from {baseline} in {metric['name']} yet: {facts}.{wanted}"
