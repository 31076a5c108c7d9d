"""Slopes of gradient norms at initialization, fitted seed by seed and held against the theory's."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normscope.papers.initial_gradients import PLACED, Setting
from normscope.papers.judgement import decide
from normscope.results.disk import SCHEMA
from normscope.results.planning import LEAST_PAIRS, MOST_SEEDS, seeds_needed
from normscope.results.statistics import sign_flip_p, t_interval

ALPHA = 0.05
"""Of every line by itself."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the paper says of one line of its figure, as a slope."""

    id: str
    says: str
    placement: str
    axis: str
    """``size``: log norm by log layers; ``layer``: log norm by layer of the decoder."""
    published: float
    epsilon: float
    reason: str
    """Of epsilon."""
    source: str


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
        says="in Post-LN the norm grows with the layer, by sqrt(3/2) each: slope ln(3/2) / 2",
        placement="post",
        axis="layer",
        published=float(np.log(1.5) / 2),
        epsilon=0.1,
        reason="half the slope; the factor is that of an encoder layer, and a decoder layer has a third norm",
        source="Appendix F, Figure 3 (a)",
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
    lines = []
    for line in LINES:
        if line.axis == "size":
            axis = np.log(setting.layers)
            values = [[last[line.placement, layers, seed] for layers in setting.layers] for seed in seeds]
        else:
            axis = np.arange(setting.layers[0])
            values = [first[line.placement, seed]["decoder"]["W2"] for seed in seeds]
        slopes = np.array([np.polyfit(axis, np.log(one), 1)[0] for one in values]) if len(axis) > 1 else np.array([])
        lines.append(_judge(line, slopes))
    return {
        "schema": SCHEMA,
        "setting": {**asdict(setting), "layers": list(setting.layers), "id": setting.id},
        "seeds": seeds,
        "dropout": 0.0,
        "points": points,
        "lines": lines,
        "rows": list(rows),
    }


def _judge(line: Line, slopes: np.ndarray) -> dict[str, Any]:
    interval = t_interval(slopes, level=1 - ALPHA) if len(slopes) >= 2 else None
    if interval is None or len(slopes) < LEAST_PAIRS:
        verdict = (f"cannot tell: needs {LEAST_PAIRS} seeds", f"there are {len(slopes)}, too few to claim anything")
    else:
        significant = sign_flip_p(slopes, rng=np.random.default_rng(0)) < ALPHA
        verdict = decide(line.published, line.epsilon, interval, significant=significant) or _needs(line, slopes)
    return {
        **asdict(line),
        "ours": float(slopes.mean()) if len(slopes) else None,
        "interval": None if interval is None else list(interval),
        "verdict": verdict[0],
        "because": verdict[1],
    }


def _needs(line: Line, slopes: np.ndarray) -> tuple[str, str]:
    gap = abs(line.epsilon - abs(float(slopes.mean()) - line.published))
    in_all = seeds_needed(sd=float(slopes.std(ddof=1)), effect=gap, alpha=ALPHA)
    many = f"over {MOST_SEEDS}" if in_all is None else str(max(in_all, len(slopes) + 1))
    return f"cannot tell: needs {many} seeds", "the interval reaches across epsilon"
