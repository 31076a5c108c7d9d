"""matplotlib figures as SVG for a page: compact, reproducible to the byte, and in the colours of the page.

matplotlib is imported when a figure is drawn, not before.
"""

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from normscope.report.drawing.format import significant
from normscope.report.drawing.palette import stand_in, stand_ins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def fence(values: Sequence[float], *, reach: float = 4.0) -> tuple[float, float]:
    """Return the range of the values that lie within ``reach`` interquartile ranges of the quartiles.

    Tukey's fences (Exploratory Data Analysis, 1977, ch. 2), wider than his 1.5 and 3: they exclude only values that
    would flatten the rest of a figure. With fewer than four values, or without spread, the range is that of all values.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("a range needs at least one value, got an empty sequence")
    array = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(array, [0.25, 0.75])
    if len(array) < 4 or low == high:
        return float(array.min()), float(array.max())
    inside = array[(array >= low - reach * (high - low)) & (array <= high + reach * (high - low))]
    return float(inside.min()), float(inside.max())


def padded(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Widen a range on both sides by a share of its width, or of its value if it has no width."""
    width = (high - low) or abs(high) or 1.0
    return low - share * width, high + share * width


def wants_logarithm(values: Sequence[float], ratio: float) -> bool:
    """Return whether the values are positive and span more than a factor of ``ratio``."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > ratio


def plain_ticks(axes: "Axes", which: Literal["x", "y"], *, count: int, logarithmic: bool = False) -> None:
    """Label an axis with about ``count`` plain numbers, thousands as ``k``."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    if logarithmic:
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=count + 2))
    else:
        axis.set_major_locator(MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """Write a tick label in as few characters as possible."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}".replace("-", "\N{MINUS SIGN}")
    # Ten decimals hide the rounding errors of accumulated steps.
    text = f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) >= 1e-4 else f"{value:g}"
    return "0" if text in ("-0", "") else text.replace("-", "\N{MINUS SIGN}")


def describe(value: float | None, unit: str) -> str:
    """Write a value with its unit for the description of a figure."""
    return f"{significant(value, 4)} {unit}".strip()


_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_MARK = "normscope"
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "normscope",
    # Labels come from a card: a dollar sign does not begin mathematics.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.unicode_minus": True,
}


def blank(width: float, height: float) -> "Figure":
    """Create a figure of ``width`` by ``height`` CSS pixels, without a background."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def axes(figure: "Figure", *, left: float, right: float, top: float, bottom: float) -> "Axes":
    """Add axes with the given margins in pixels, without a box, with light horizontal rules and muted labels."""
    width, height = figure.get_size_inches() * 72
    new = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height),
        facecolor="none",
    )
    for side in ("left", "right", "top"):
        new.spines[side].set_visible(False)
    new.spines["bottom"].set_color(stand_in("rule"))
    new.set_axisbelow(True)
    new.grid(axis="y", color=stand_in("rule"), linewidth=0.7)
    new.tick_params(which="both", length=0, pad=4, colors=stand_in("muted"), labelsize=11)
    return new


def headline(plot: "Axes", text: str, *, above: float = 9, size: float = 11) -> None:
    """Write the label of the value axis ``above`` points over its upper end, in font size ``size``."""
    plot.annotate(
        text,
        (0, 1),
        (-40, above),
        xycoords="axes fraction",
        textcoords="offset points",
        color=stand_in("muted"),
        fontsize=size,
    )


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the matplotlib settings of every figure of a report."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text in its own fonts, so a glyph missing from matplotlib's font does not matter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def mark(index: int, tip: str = "") -> str:
    """Return the ``gid`` of an element of arm ``index``; the page highlights it and shows ``tip`` on hover."""
    return f"{_MARK}|{index}|{clean(tip)}"


def clean(text: str, longest: int = 200) -> str:
    """Return a label as one line without control characters, cut to ``longest`` characters."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def to_svg(figure: "Figure", *, name: str, title: str, words: str) -> str:
    """Render a figure as an ``<svg role="img">`` element.

    Args:
        figure: Figure drawn in the stand-in colours of ``palette.py``, inside `drawing`.
        name: Prefix of every id in the figure, unique in the page.
        title: Title of the figure, for screen readers.
        words: Description of its content in sentences, for screen readers.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ET.fromstring(buffer.getvalue())
    width, height = (round(side * 72) for side in figure.get_size_inches())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}metadata" or (
                child.tag == f"{_SVG}defs" and child.find(f"{_SVG}style") is not None
            ):
                parent.remove(child)
    for element in list(root.iter()):
        _translate(element, name)
    root.attrib = {
        "viewBox": f"0 0 {width} {height}",
        "width": str(width),
        "height": str(height),
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-words",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", words))):
        element = ET.Element(tag, {"id": f"{name}-{'words' if tag == 'desc' else tag}"})
        element.text = clean(text, longest=4000)
        root.insert(place, element)
    # This removes space between tags only: a bracket in a label is written as an entity.
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode")).strip()


def _translate(element: ET.Element, name: str) -> None:
    """Adapt one element to the page: its colours, ids and fonts, and coordinates with two decimals."""
    # An HTML parser knows the namespace of SVG.
    element.tag = element.tag.removeprefix(_SVG)
    attributes = element.attrib
    identity = attributes.pop("id", None)
    if identity is not None and identity.startswith(_MARK + "|"):
        _, index, tip = identity.split("|", 2)
        attributes["data-arm"] = index
        if tip:
            note = ET.Element("title")
            note.text = tip
            element.insert(0, note)
    elif identity is not None and element.tag != "g":
        attributes["id"] = f"{name}-{identity}"
    if _HREF in attributes:
        attributes["href"] = f"#{name}-{attributes.pop(_HREF)[1:]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")
    for key in _GEOMETRY:
        if key in attributes:
            shorter = re.sub(r"-?\d+\.\d+", _shorten, attributes[key])
            attributes[key] = re.sub(r"\s*\n\s*", "", shorter).strip()
    if "style" in attributes:
        attributes["style"] = _restyle(attributes["style"])
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]


def _shorten(number: re.Match[str]) -> str:
    """Round a coordinate to a hundredth of a pixel."""
    text = f"{float(number.group()):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _restyle(style: str) -> str:
    """Replace the colours of matplotlib by those of the page, and remove its font."""
    kept = [part for part in style.split("; ") if not part.startswith("font-family")]
    text = ";".join(part.replace(": ", ":") for part in kept)
    for colour, variable in stand_ins().items():
        text = text.replace(colour, variable)
    return text
