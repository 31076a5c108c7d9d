"""The path of a study through its planned looks: a figure and a table of every arm, and what the plan says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normscope.report.drawing.format import (
    MISSING,
    aside,
    change,
    decimals,
    level,
    number,
    probability,
    span,
    verdict_kind,
)
from normscope.report.drawing.palette import ArmStyle, stand_in
from normscope.report.drawing.svg import axes, blank, drawing, headline, mark, padded, plain_ticks, to_svg
from normscope.results.looks import describe_next
from normscope.results.per_arm import ArmLook, ArmSummary
from normscope.results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _BAND, _RULE = stand_in("ink"), stand_in("muted"), stand_in("band"), stand_in("rule")
_SPENDING = {
    "pocock": "as in Pocock (1977)",
    "obrien_fleming": "as in O'Brien and Fleming (1979)",
    "kim_demets": "as in Kim and DeMets (1987)",
}
_ENDED = {
    "decided": "It ended at {pairs} pairs, when every arm was decided or had runs that failed.",
    "maximum": "It ended at the planned maximum of {pairs} pairs.",
    "time": "It stopped after the look at {pairs} pairs, when its time was up.",
    "hopeless": "It stopped at {pairs} pairs, since a decision at a later look was unlikely; this rule is not binding.",
}


def describe_plan(summary: Summary, *, declared: bool = False) -> list[str]:
    """Write what was planned, how far the study came, what the next look costs, and what later seeds would be worth.

    Args:
        summary: Summary of a study with looks.
        declared: Whether the looks were declared with a table of runs, so that only its author knows when.
    """
    state = summary.looks
    assert state is not None
    begin = "Declared with the table:" if declared else "Planned before the first run:"
    if earlier := state.continues:
        begin += f" looks at {_list(earlier.pairs)} pairs. Changed after the look at {earlier.seen}: now"
    elif summary.changes:
        begin = "Changed after results could be seen: now"
    first = (
        f"{begin} looks at {_list(state.pairs)} pairs. Alpha is spent over them {_SPENDING[state.spending]}. "
        "A decided arm has no further runs."
    )
    done = state.pairs[state.reached - 1] if state.reached else 0
    if state.ended is not None and not done:
        second = "It stopped before its first look, when its time was up."
    elif state.ended is not None:
        second = _ENDED[state.ended].format(pairs=done)
    else:
        second = f"Looks reached: {state.reached} of {len(state.pairs)}. The study goes on."
    third = f" The next look is at {describe_next(state.next, 1)}." if state.next else ""
    return [first, second + third, _describe_later_seeds(summary, done)]


def _list(pairs: Sequence[int]) -> str:
    *most, last = map(str, pairs)
    return f"{', '.join(most)} and {last}"


def _describe_later_seeds(summary: Summary, done: int) -> str:
    """Write by which rule seeds that are added from here on are tested."""
    assert summary.looks is not None
    most = summary.looks.pairs[-1]
    if summary.caution:
        return f"The p values are {summary.caution}."
    if not done or done == most:
        return (
            f"Seeds beyond the {most} that are planned, added after results could be seen, make the study exploratory."
        )
    return (
        f"Going on to the looks that are planned leaves all p values valid. If seeds beyond {most} are added at a look "
        "before the last one, and no later run has ended, differences are tested at the conditional level (Koning and "
        "van Meer, 2025), and equivalence and intervals become exploratory; else all becomes exploratory."
    )


def look_rows(summary: Summary) -> list[dict[str, Any]]:
    """Build the table of the looks: one row per arm and look, tuned arms first."""
    places = decimals(summary.margin)
    rows = []
    for side, arms in (("", summary.arms), ("untuned", summary.untuned or ())):
        for arm in arms:
            for look in arm.looks or ():
                kind = verdict_kind(look.verdict)
                rows.append(
                    {
                        "label": arm.label,
                        "side": side,
                        "pairs": look.pairs,
                        "difference": number(look.difference, places, signed=True),
                        "interval": span(look.interval, places),
                        "boundary": _bounds(look, places),
                        "p_adjusted": probability(look.p_adjusted),
                        "p_equivalent": probability(look.p_equivalent),
                        "kind": kind,
                        "note": look.verdict if kind == "open" else aside(look.verdict, kind),
                        "decided": arm.decided_at == look.pairs,
                    }
                )
    return rows


def _bounds(look: ArmLook, places: int) -> str:
    return MISSING if look.boundary is None else f"±{number(look.boundary, places)}"


def path(arm: ArmSummary, style: ArmStyle, summary: Summary, *, name: str) -> str:
    """Draw the difference of an arm at each look with its repeated interval, and where the boundaries stand.

    Args:
        arm: Arm with at least one look.
        style: Style of the arm.
        summary: Summary of the study.
        name: Prefix of ids, unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    looks, plan = arm.looks or (), summary.looks
    assert plan is not None
    margin, places, unit = summary.margin, decimals(summary.margin), summary.metric["unit"]
    bounds = [side * look.boundary for look in looks if look.boundary is not None for side in (-1, 1)]
    ends = [*(end for look in looks for end in look.interval), *bounds, -1.25 * margin, 1.25 * margin]
    width = (plan.pairs[-1] - plan.pairs[0]) or 1
    with drawing():
        figure = blank(350, 240)
        plot = axes(figure, left=46, right=14, top=26, bottom=40)
        plot.set(xlim=padded(plan.pairs[0], plan.pairs[-1], 0.09), ylim=padded(min(ends), max(ends), 0.05))
        plot.axhspan(-margin, margin, color=_BAND, linewidth=0)
        plot.axhline(0, color=_MUTED, linewidth=1)
        plain_ticks(plot, "y", count=5)
        plot.set_xticks(plan.pairs, [str(pairs) for pairs in plan.pairs])
        plot.set_xlabel("pairs at the look", color=_MUTED, fontsize=11, loc="right")
        headline(plot, f"difference{f' ({unit})' if unit and unit != '%' else ' (points)' if unit else ''}", above=12)
        for pairs in plan.pairs[len(looks) :]:
            plot.axvline(pairs, color=_RULE, linewidth=1, linestyle=(0, (2, 3)), zorder=0.5)
        for side in (-1, 1):
            known = [(look.pairs, side * look.boundary) for look in looks if look.boundary is not None]
            plot.plot(
                [pairs for pairs, _ in known],
                [value for _, value in known],
                color=_INK,
                linewidth=0.8,
                linestyle=(0, (2, 2)),
            )
            for pairs, value in known:
                plot.plot([pairs - 0.022 * width, pairs + 0.022 * width], [value] * 2, color=_INK, linewidth=2)
        plot.plot(
            [look.pairs for look in looks],
            [look.difference for look in looks],
            color=style.colour,
            linewidth=1,
            gid=mark(style.index),
        )
        for look in looks:
            _look(plot, look, style, decided=look.pairs == arm.decided_at, places=places, unit=unit)
        words = "; ".join(
            f"at {look.pairs} pairs {change(look.difference, places, unit)} {span(look.interval, places)}, "
            f"claimed beyond {_bounds(look, places)}: {look.verdict}"
            for look in looks
        )
        title = f"{arm.label} at each look, with {level(summary.alpha)} repeated intervals"
        return to_svg(
            figure, name=name, title=title, words=f"{words}. The margin is ±{margin} {unit}.".replace(" .", ".")
        )


def _look(plot: "Axes", look: ArmLook, style: ArmStyle, *, decided: bool, places: int, unit: str) -> None:
    """Draw one look: its interval and its difference, with a ring where it decided."""
    tip = f"{look.pairs} pairs: {change(look.difference, places, unit)} {span(look.interval, places)}, {look.verdict}"
    at = [look.pairs]
    plot.plot(at * 2, look.interval, color=style.colour, linewidth=3, solid_capstyle="butt", gid=mark(style.index, tip))
    plot.plot(at, [look.difference], style.marker, color=style.colour, markersize=8, gid=mark(style.index, tip))
    if decided:
        plot.plot(at, [look.difference], "o", color="none", markeredgecolor=_INK, markersize=16, markeredgewidth=1.6)
