"""From a matplotlib figure to SVG for the page: small, the same bytes for the same data, and in the page's colours."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from normscope.report.palette import stand_in, stand_ins

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_MARK = "normscope"
_GEOMETRY = ("d", "x", "y", "width", "height", "transform")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "normscope",
    # Labels come from a card: a dollar sign in one is a dollar sign, not mathematics.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.unicode_minus": True,
}


def blank(width: float, height: float) -> Figure:
    """Open a figure of ``width`` by ``height`` CSS pixels, without a background."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def axes(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Add quiet axes with the given margins, in pixels: no box, light horizontal rules, muted labels."""
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


def headline(plot: Axes, words: str, *, above: float = 9, size: float = 11) -> None:
    """Write what the value axis shows over its upper end, ``above`` points higher, in letters of ``size``."""
    plot.annotate(
        words,
        (0, 1),
        (-40, above),
        xycoords="axes fraction",
        textcoords="offset points",
        color=stand_in("muted"),
        fontsize=size,
    )


@contextmanager
def drawing() -> Iterator[None]:
    """Hold the settings of matplotlib that every figure of a report is drawn with."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text in its own fonts; that matplotlib's font lacks a letter changes nothing.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def mark(index: int, tip: str = "") -> str:
    """Give the ``gid`` of what belongs to arm ``index``; the page highlights it and shows ``tip`` on hover."""
    return f"{_MARK}|{index}|{clean(tip)}"


def clean(text: str, longest: int = 200) -> str:
    """Make a label fit for a figure: one line, without control characters, cut to ``longest`` characters."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def to_svg(figure: Figure, *, name: str, title: str, words: str) -> str:
    """Write a figure as an ``<svg role="img">`` element.

    Args:
        figure: Drawn in the stand-in colours of ``palette.py``, under `drawing`.
        name: Unique in the page; every id in the picture begins with it.
        title: What the picture is, for a screen reader.
        words: What can be seen in it, in sentences.
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
    # Only the space between tags goes: a bracket in a label is written as an entity.
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode")).strip()


def _translate(element: ET.Element, name: str) -> None:
    """Bring one element into the page: its colours, its ids, its fonts, and two decimals where a pixel has no more."""
    # Inside a page the parser knows the namespace.
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
    """Put the page's colours and font in place of matplotlib's."""
    kept = [part for part in style.split("; ") if not part.startswith("font-family")]
    text = ";".join(part.replace(": ", ":") for part in kept)
    for colour, variable in stand_ins().items():
        text = text.replace(colour, variable)
    return text
