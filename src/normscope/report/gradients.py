"""The gradient at the norms through training: what re-centering and re-scaling take out of it."""

from collections.abc import Sequence

import numpy as np

from normscope.report.folder import Run
from normscope.report.palette import Look, stand_in
from normscope.report.scale import describe, plain_ticks
from normscope.report.svg import axes, blank, drawing, headline, mark, to_svg

_MUTED = stand_in("muted")
_PARTS = (("re-centering", "-"), ("re-scaling", (0, (4, 2))))


def shares(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Give the steps of a run's evaluations, ``[n]``, and both shares in %, ``[n, 2]``, averaged over its norms.

    Evaluations without a share are left out: of a network without norms, or a run older than the probe.
    """
    rows = [(row["step"], row["gradient"]) for row in run.metrics if row.get("gradient")]
    steps = np.array([step for step, _ in rows], dtype=np.int64)
    means = [100 * np.mean(list(by_norm.values()), axis=0) for _, by_norm in rows]
    return steps, np.array(means, dtype=np.float64).reshape(-1, 2)


def highest(runs: Sequence[Run]) -> float:
    """Give the end of the share axis that all arms of a study have, in %."""
    seen = [share for run in runs for share in shares(run)[1].ravel()]
    return max(1.0, 1.08 * max(seen, default=0.0))


def gradients(runs: Sequence[Run], look: Look, steps: int, top: float, *, name: str) -> str:
    """Draw both shares of one arm over the steps: every seed thin, their median thick.

    Args:
        runs: The arm's.
        look: The arm's.
        steps: The end of the step axis.
        top: The end of the share axis, in %.
        name: Unique in the page.

    Returns:
        An ``<svg>`` element.
    """
    found = [(run, *shares(run)) for run in runs]
    grid = np.array(sorted({step for _, at, _ in found for step in at}), dtype=np.int64)
    table = np.full((len(runs), len(grid), 2), np.nan)
    for place, (_, at, values) in enumerate(found):
        table[place, np.searchsorted(grid, at)] = values
    middle = np.nanmedian(table, axis=0)
    with drawing():
        figure = blank(350, 210)
        plot = axes(figure, left=46, right=12, top=24, bottom=30)
        plot.set(xlim=(0, steps), ylim=(0, top))
        plain_ticks(plot, "y", count=4)
        plain_ticks(plot, "x", count=4)
        plot.set_xlabel("step", color=_MUTED, fontsize=11, loc="right", labelpad=2)
        headline(plot, "% of the gradient: re-centering (line), re-scaling (broken)", size=10)
        for part, (word, style) in enumerate(_PARTS):
            for run, at, values in found:
                tip = mark(look.index, f"{word}, seed {run.seed}")
                plot.plot(at, values[:, part], color=look.colour, linewidth=0.7, alpha=0.35, linestyle=style, gid=tip)
            plot.plot(grid, middle[:, part], color=look.colour, linestyle=style, linewidth=2.3, zorder=3)
        ends = " and ".join(f"{word} {describe(float(middle[-1, part]), '%')}" for part, (word, _) in enumerate(_PARTS))
        words = f"{runs[0].label}: at step {grid[-1]} the median share of {ends}."
        return to_svg(figure, name=name, title=f"Gradient at the norms of {runs[0].label}", words=words)
