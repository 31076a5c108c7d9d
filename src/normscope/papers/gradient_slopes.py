"""Slopes of gradient norms at initialization, fitted seed by seed and held against the theory's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normscope.papers.initial_gradients import PLACED, Setting
from normscope.papers.judgement import decide, side_of
from normscope.results.disk import SCHEMA
from normscope.results.planning import MOST_SEEDS, fewest_pairs, seeds_needed
from normscope.results.statistics import Interval, holm, sign_flip_p, t_interval

ALPHA = 0.05
"""Of all lines together: directions by Holm, sizes by intervals at level 1 - alpha / lines."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the paper says of one line of its figure, as a slope."""

    id: str
    says: str
    placement: str
    axis: str
    """``size``: log norm by log layers; ``layer``: log norm by layer of the decoder."""
    published: float
    """The theory's slope."""
    epsilon: float
    reason: str
    """Of epsilon."""
    source: str
    growth: bool = False
    """Whether that it is above zero is all that is claimed, and the size only told."""


LINES = (
    Line(
        id="gradients/post-by-size",
        says="Post-LN is flat in the number of layers: slope 0 in log-log",
        placement="post",
        axis="size",
        published=0.0,
        epsilon=0.1,
        reason="a fifth of Pre-LN's slope",
        source="Theorem 1, Figure 3 (c): flat at about 1.6",
    ),
    Line(
        id="gradients/pre-by-size",
        says="Pre-LN falls as 1 / sqrt(layers): slope -1/2 in log-log",
        placement="pre",
        axis="size",
        published=-0.5,
        epsilon=0.1,
        reason="Lemma 2's bounds on the stream give -0.41 to -0.47 between 6 and 14 layers; -1/2 is the limit",
        source="Theorem 1, Figure 3 (d): decreasing",
    ),
    Line(
        id="gradients/post-by-layer",
        says="in Post-LN the norm grows with the layer of the decoder",
        placement="post",
        axis="layer",
        published=float(np.log(1.5) / 2),
        epsilon=0.1,
        reason="half the slope",
        source="Appendix F, Figure 3 (a): sqrt(3/2) a layer, derived for an encoder's; a decoder's has a third norm",
        growth=True,
    ),
    Line(
        id="gradients/pre-by-layer",
        says="in Pre-LN the norm is nearly the same in every layer: slope 0",
        placement="pre",
        axis="layer",
        published=0.0,
        epsilon=0.1,
        reason="half of Post-LN's slope",
        source="Appendix F, Figure 3 (a)",
    ),
)


def conclude(rows: Sequence[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """Fit the slopes, seed by seed, and hold them against the theory's.

    Returns:
        ``points``: mean, ends and theory for every placement and size; ``lines``: for each of :data:`LINES` the slope,
        its t interval over seeds and a verdict; ``rows``; the setting.
    """
    seeds = sorted({row["seed"] for row in rows})
    last = {(row["placement"], row["layers"], row["seed"]): row["last"] for row in rows}
    first = {(row["placement"], row["seed"]): row["by_layer"] for row in rows if row["by_layer"]}
    points = []
    for placement in PLACED:
        start = float(np.mean([last[placement, setting.layers[0], seed] for seed in seeds]))
        for layers in setting.layers:
            values = [last[placement, layers, seed] for seed in seeds]
            theory = start * ((setting.layers[0] / layers) ** 0.5 if placement == "pre" else 1.0)
            points.append(
                {
                    "placement": placement,
                    "layers": layers,
                    "mean": float(np.mean(values)),
                    "least": min(values),
                    "most": max(values),
                    "theory": theory,
                }
            )
    slopes = []
    for line in LINES:
        if line.axis == "size":
            axis = np.log(setting.layers)
            values = [[last[line.placement, layers, seed] for layers in setting.layers] for seed in seeds]
        else:
            axis = np.arange(setting.layers[0])
            values = [first[line.placement, seed]["decoder"]["W2"] for seed in seeds]
        fitted = [np.polyfit(axis, np.log(one), 1)[0] for one in values] if len(axis) > 1 else []
        slopes.append(np.array(fitted))
    tests = [sign_flip_p(one, rng=np.random.default_rng(0)) if len(one) else None for one in slopes]
    adjusted = holm(tests)
    lines = [_judge(line, one, p) for line, one, p in zip(LINES, slopes, adjusted, strict=True)]
    return {
        "schema": SCHEMA,
        "setting": {**asdict(setting), "layers": list(setting.layers), "id": setting.id},
        "seeds": seeds,
        "dropout": 0.0,
        "points": points,
        "lines": lines,
        "rows": list(rows),
    }


def _judge(line: Line, slopes: np.ndarray, p: float | None) -> dict[str, Any]:
    levels = (1 - ALPHA, 1 - ALPHA / len(LINES))
    interval, wide = (t_interval(slopes, level=level) if len(slopes) >= 2 else None for level in levels)
    least = fewest_pairs(ALPHA / len(LINES))
    if interval is None or wide is None or len(slopes) < least:
        verdict = (f"cannot tell: needs {least} seeds", f"there are {len(slopes)}, too few to claim anything")
    else:
        significant = p is not None and p < ALPHA
        if line.growth:
            verdict = _grows(line, interval, wide, significant=significant)
        else:
            verdict = decide(line.published, line.epsilon, interval, significant=significant, sizes=wide)
        verdict = verdict or _needs(line, slopes)
    return {
        **asdict(line),
        "ours": float(slopes.mean()) if len(slopes) else None,
        "interval": None if interval is None else list(interval),
        "verdict": verdict[0],
        "because": verdict[1],
    }


def _grows(line: Line, interval: Interval, wide: Interval, *, significant: bool) -> tuple[str, str] | None:
    """Judge that a slope is above zero, and tell how it lies to the theory's."""
    side = side_of(interval, significant=significant)
    if not side:
        return None
    if side < 0:
        return "not reproduced", "it falls"
    theory = f"the theory's {line.published:+.3f} (sqrt(3/2) a layer of an encoder)"
    if wide[0] <= line.published <= wide[1]:
        return "reproduced", f"it grows; {theory} is not ruled out"
    return (
        "reproduced",
        f"it grows; the size differs: it is {'more' if wide[0] > line.published else 'less'} than {theory}",
    )


def _needs(line: Line, slopes: np.ndarray) -> tuple[str, str]:
    mean = float(slopes.mean())
    gap = abs(mean) if line.growth else abs(line.epsilon - abs(mean - line.published))
    in_all = seeds_needed(sd=float(slopes.std(ddof=1)), effect=gap, alpha=ALPHA / len(LINES))
    many = f"over {MOST_SEEDS}" if in_all is None else str(max(in_all, len(slopes) + 1))
    why = "the interval holds zero" if line.growth else "the interval reaches across epsilon"
    return f"cannot tell: needs {many} seeds", why
