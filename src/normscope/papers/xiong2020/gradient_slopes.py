"""Slopes of gradient norms at initialization, fitted per seed and compared with the theory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normscope.fits import log_slope
from normscope.papers.judging.agreement import decide, side_of
from normscope.papers.xiong2020.initial_gradients import PLACED, Setting
from normscope.report.drawing.palette import ArmStyle, arm_styles, stand_in, style_sheet
from normscope.report.drawing.svg import axes, blank, drawing, headline, mark, to_svg
from normscope.results.statistics import (
    MOST_SEEDS,
    Interval,
    fewest_pairs,
    holm,
    seeds_needed,
    sign_flip_p,
    t_interval,
)
from normscope.results.store import SCHEMA

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHA = 0.05
"""Accepted probability of any false claim: directions by Holm's correction, sizes at level 1 - alpha / lines."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A claim of the paper on one line of its figure, as a slope."""

    id: str
    says: str
    placement: str
    axis: Literal["size", "layer"]
    """``size``: log norm by log layers; ``layer``: log norm by layer of the decoder."""
    published: float
    """Slope of the theory."""
    epsilon: float
    reason: str
    """Reason for epsilon."""
    source: str
    growth: bool = False
    """Whether the claim is only that the slope is positive; its size is then reported but not judged."""


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
    """Fit the slopes per seed, and compare them with the theory.

    Returns:
        ``points``: mean, range and theory for every placement and size; ``lines``: for each of :data:`LINES` the slope,
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
        slopes.append(np.array([log_slope(each, axis) for each in values] if len(axis) > 1 else []))
    tests = [sign_flip_p(each, rng=np.random.default_rng(0)) if len(each) else None for each in slopes]
    lines = [_judge(line, each, p) for line, each, p in zip(LINES, slopes, holm(tests), strict=True)]
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
    """Judge the claim that a slope is positive, and report its size relative to the theory."""
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


_MUTED = stand_in("muted")
_NAMES = {"post": "Post-LN", "pre": "Pre-LN"}
_WIDTH, _HEIGHT, _PANEL = 784, 300, 240


def draw(found: Mapping[str, Any]) -> str:
    """Render the result of :func:`conclude` as an SVG file.

    Every dot is a seed. In the first panel the broken line is the theory, through the mean of the smallest size; in
    the others the solid line is W2 and the dotted line W1, means over the seeds.
    """
    styles = arm_styles(list(_NAMES), "post")
    rows = found["rows"]
    with drawing():
        figure = blank(_WIDTH, _HEIGHT)
        panels = [
            axes(
                figure, left=46 + number * (_PANEL + 14), right=_WIDTH - (number + 1) * (_PANEL + 14), top=40, bottom=44
            )
            for number in range(3)
        ]
        _by_size(panels[0], found, styles)
        top = max(
            max(named)
            for row in rows
            if row["by_layer"]
            for part in row["by_layer"].values()
            for named in part.values()
        )
        for panel, part in zip(panels[1:], ("encoder", "decoder"), strict=True):
            _by_layer(panel, rows, part, styles, top)
        svg = to_svg(
            figure,
            name="gradients",
            title="Gradient norm of feed-forward matrices at initialization",
            words=" ".join(f"{line['says']}: ours {_slope(line)}, {line['verdict']}." for line in found["lines"]),
        )
    return _alone(svg)


def _by_size(plot: "Axes", found: Mapping[str, Any], styles: Mapping[str, ArmStyle]) -> None:
    sizes = found["setting"]["layers"]
    for placement, name in _NAMES.items():
        points = [point for point in found["points"] if point["placement"] == placement]
        style = styles[placement]
        for row in found["rows"]:
            if row["placement"] == placement:
                _dot(plot, row["layers"], row["last"], style, f"{name}, seed {row['seed']}")
        plot.plot(sizes, [point["mean"] for point in points], color=style.colour, linewidth=2.2)
        plot.plot(
            sizes, [point["theory"] for point in points], color=style.colour, linewidth=1.2, linestyle=(0, (4, 3))
        )
        _name(plot, sizes[-1], points[-1]["mean"], name, style)
    plot.set(xticks=sizes, xticklabels=[f"{size}-{size}" for size in sizes], ylim=(0, None))
    plot.set_xlabel("layers", color=_MUTED, fontsize=11, loc="right", labelpad=2)
    headline(plot, "last decoder layer, W2; broken: theory")


def _by_layer(
    plot: "Axes", rows: Sequence[Mapping[str, Any]], part: str, styles: Mapping[str, ArmStyle], top: float
) -> None:
    for placement, name in _NAMES.items():
        style = styles[placement]
        held = [row for row in rows if row["placement"] == placement and row["by_layer"]]
        for matrix, line in (("W2", "-"), ("W1", (0, (1, 2)))):
            table = np.array([row["by_layer"][part][matrix] for row in held])
            layers = np.arange(1, table.shape[1] + 1)
            plot.plot(layers, table.mean(axis=0), color=style.colour, linestyle=line, linewidth=2.0)
            if matrix == "W2":
                for row, values in zip(held, table, strict=True):
                    for layer, value in zip(layers, values, strict=True):
                        _dot(plot, layer, value, style, f"{name}, layer {layer}, seed {row['seed']}")
                _name(plot, layers[-1], table.mean(axis=0)[-1], name, style)
        plot.set(xticks=layers, ylim=(0, 1.05 * top))
    plot.set_xlabel("layer", color=_MUTED, fontsize=11, loc="right", labelpad=2)
    size = len(plot.get_xticks())
    headline(plot, f"{part} of {size}-{size}; W2, dotted W1")


def _dot(plot: "Axes", x: float, y: float, style: ArmStyle, tip: str) -> None:
    plot.plot(
        [x], [y], style.marker, color=style.colour, markersize=3.5, alpha=0.5, linewidth=0, gid=mark(style.index, tip)
    )


def _name(plot: "Axes", x: float, y: float, name: str, style: ArmStyle) -> None:
    plot.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="right", color=style.colour, fontsize=11)


def _slope(line: Mapping[str, Any]) -> str:
    if line["ours"] is None or line["interval"] is None:
        return "unknown"
    low, high = line["interval"]
    return f"{line['ours']:+.3f} ({low:+.3f} to {high:+.3f})"


def _alone(svg: str) -> str:
    """Return the element as a file, with its namespace and the colours of the page."""
    style = f"<style>{style_sheet()}svg{{background:var(--paper);font-family:system-ui,sans-serif}}</style>"
    opened = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    end = opened.index(">") + 1
    return opened[:end] + style + opened[end:] + "\n"
