"""Colours and markers of the arms, light and dark, shared by the figures and the page.

A figure is drawn in stand-in colours, and ``svg.py`` replaces each by ``var(--name)``: the style sheet of the page
defines the colours, and dark mode needs no second figure. Neighbouring colours are at least 18 CIELAB units apart for
normal vision, protanopia, deuteranopia and tritanopia (Machado et al. 2009, severity 1), and have a contrast of 3:1 to
the background; marker shapes distinguish the arms independently of colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LIGHT = {
    "paper": "#fbfbf9",
    "raised": "#ffffff",
    "ink": "#1f2529",
    "muted": "#58626a",
    "rule": "#dcdfdd",
    "band": "#e4ecea",
    "accent": "#0b6265",
    "fail": "#b3261e",
    "fail-soft": "#fbeceb",
    "warn-soft": "#fdf3dc",
    "arm-1": "#2450d8",
    "arm-2": "#9c1c10",
    "arm-3": "#169a52",
    "arm-4": "#ac2a92",
    "arm-5": "#828f06",
    "arm-6": "#1e88f0",
    "arm-7": "#8a5463",
}
"""Colours of the light theme, by custom property."""

DARK = {
    "paper": "#14181b",
    "raised": "#1b2024",
    "ink": "#e8eaea",
    "muted": "#a3adb3",
    "rule": "#333b41",
    "band": "#23322f",
    "accent": "#6fc7c4",
    "fail": "#ff8a80",
    "fail-soft": "#3a1f1e",
    "warn-soft": "#37301c",
    "arm-1": "#5f7bff",
    "arm-2": "#d9581c",
    "arm-3": "#1f9a68",
    "arm-4": "#c06ab8",
    "arm-5": "#f0b429",
    "arm-6": "#62c4ff",
    "arm-7": "#cfbf86",
}
"""Colours of the dark theme."""

_SHAPES = (
    ("s", '<path d="M-4-4H4V4H-4z"/>'),
    ("^", '<path d="M0-5L5 4H-5z"/>'),
    ("D", '<path d="M0-5.5L5.5 0L0 5.5L-5.5 0z"/>'),
    ("v", '<path d="M0 5L5-4H-5z"/>'),
    ("P", '<path d="M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8z"/>'),
    ("p", '<path d="M0-5.2L5-1.6L3.1 4.2H-3.1L-5-1.6z"/>'),
    ("X", '<path d="M-5-2.7L-2.7-5L0-2.3L2.7-5L5-2.7L2.3 0L5 2.7L2.7 5L0 2.3L-2.7 5L-5 2.7L-2.3 0z"/>'),
    ("h", '<path d="M0-5.2L4.5-2.6V2.6L0 5.2L-4.5 2.6V-2.6z"/>'),
)
_BASELINE_SHAPE = ("o", '<circle r="4.4"/>')
_COLOURS = sum(name.startswith("arm-") for name in LIGHT)


@dataclass(frozen=True, kw_only=True)
class ArmStyle:
    """Colour and marker of one arm in all figures."""

    index: int
    """Index of the arm; 0 is the baseline."""
    token: str
    """Custom property of its colour."""
    marker: str
    """matplotlib marker."""
    shape: str
    """The same marker as SVG, in a box from -6 to 6."""

    @property
    def colour(self) -> str:
        """Stand-in colour for matplotlib."""
        return stand_in(self.token)


def arm_styles(labels: Sequence[str], baseline: str) -> dict[str, ArmStyle]:
    """Assign colours and markers: ink and a circle to the baseline, the others in the order of the arms.

    Colours repeat after seven arms and shapes after eight, so that 56 arms differ in at least one of them.

    Raises:
        ValueError: If the baseline is not among the labels.
    """
    if baseline not in labels:
        raise ValueError(f"the baseline {baseline!r} is not among the arms {list(labels)}")
    others = [label for label in labels if label != baseline]
    marker, shape = _BASELINE_SHAPE
    table = {baseline: ArmStyle(index=0, token="ink", marker=marker, shape=shape)}
    for place, label in enumerate(others):
        marker, shape = _SHAPES[place % len(_SHAPES)]
        table[label] = ArmStyle(index=place + 1, token=f"arm-{place % _COLOURS + 1}", marker=marker, shape=shape)
    return table


def stand_in(token: str) -> str:
    """Return the colour with which matplotlib draws in place of a custom property.

    Raises:
        KeyError: If there is no such property.
    """
    if token not in LIGHT:
        raise KeyError(f"no colour is called {token!r}; there are {list(LIGHT)}")
    return f"#f0f0{list(LIGHT).index(token):02x}"


def stand_ins() -> dict[str, str]:
    """Return the custom property that replaces each stand-in colour."""
    return {stand_in(token): f"var(--{token})" for token in LIGHT}


def style_sheet() -> str:
    """Return both themes as CSS; print is always light."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}"
    )
