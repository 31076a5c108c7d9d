"""Learning-rate curves: what the tuning of an arm saw, and the rate it chose."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator

from normscope.report.palette import Look, stand_in
from normscope.report.scale import describe, plain_ticks
from normscope.report.svg import axes, blank, drawing, mark, to_svg

_MUTED, _FAIL = stand_in("muted"), stand_in("fail")


def tuning(
    curve: Sequence[Mapping[str, Any]],
    chosen: float,
    look: Look,
    label: str,
    metric: Mapping[str, Any],
    limits: tuple[float, float],
    *,
    name: str,
) -> str:
    """Draw the validation value of every tuning run over the learning rate; the vertical line is the chosen rate.

    Args:
        curve: One entry a learning rate, with the value of each tuning seed; None where a run broke, drawn as a cross.
        chosen: The rate that the verdict's runs use.
        look: The arm's.
        label: Its name.
        metric: Its unit and direction.
        limits: The value axis.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    low, high = limits
    worst = low if metric["higher_is_better"] else high
    with drawing():
        figure = blank(172, 180)
        plot = axes(figure, left=36, right=6, top=12, bottom=40)
        rates = [entry["learning_rate"] for entry in curve]
        plot.set_xscale("log")
        plot.set(xlim=(min(rates) / 1.5, max(rates) * 1.5), ylim=limits)
        plain_ticks(plot, "y", count=4)
        shown = rates[:: -(-len(rates) // 4)]
        plot.set_xticks(shown, [_power(rate) for rate in shown])
        plot.xaxis.set_minor_locator(NullLocator())
        plot.set_xlabel("learning rate", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        plot.axvline(chosen, color=_MUTED, linewidth=1, linestyle=(0, (3, 2)))
        means = [np.mean(entry["values"]) if None not in entry["values"] else np.nan for entry in curve]
        plot.plot(rates, means, color=look.colour, linewidth=2, gid=mark(look.index))
        for entry in curve:
            for value in entry["values"]:
                found = "failed to train" if value is None else describe(value, metric["unit"])
                tip = f"{label}, learning rate {entry['learning_rate']:g}: {found}"
                x, y = [entry["learning_rate"]], [worst if value is None else value]
                plot.plot(
                    x,
                    y,
                    "x" if value is None else look.marker,
                    color=_FAIL if value is None else look.colour,
                    markersize=6,
                    markeredgewidth=1.8 if value is None else 0,
                    clip_on=value is not None,
                    gid=mark(look.index, tip),
                )
        return to_svg(
            figure,
            name=name,
            title=f"Tuning of {label}",
            words=f"{label} was tuned over the rates {', '.join(f'{at:g}' for at in rates)}; {chosen:g} was chosen.",
        )


def _power(rate: float) -> str:
    """Write a learning rate in few letters: ``3e-4``."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")
