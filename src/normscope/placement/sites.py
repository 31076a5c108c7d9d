"""Where in a network a norm or a branch stands: what a placement may look at."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

NormFactory = Callable[[int], nn.Module]
"""Makes the norm of a given width."""

BRANCHES = ("attention", "cross_attention", "feed_forward")
"""Kinds of residual branches; a layer ends after its ``feed_forward``."""

ENDS = ("stem", "final")
"""Kinds of sites outside the branches: before the first one, after the last one."""

QK = "qk"
"""The site of a norm on every head's queries and keys, where none stands unless one is named for it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place in one residual stream."""

    kind: str
    """One of :data:`BRANCHES` or :data:`ENDS`, or :data:`QK`."""
    layer: int
    """Number of its layer, from 1; 0 for the stem, the last one for the final norm."""
    layers: int
    """Layers of its stream."""
    part: str = "only"
    """``only``, ``encoder`` or ``decoder``: which stream of the network it is."""
    other_layers: int = 0
    """Layers of the other stream of an encoder-decoder; 0 without one."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """A part of the sites, as the command line writes it: ``1-3``, ``2``, ``final``, ``feed_forward``, ``qk``."""

    text: str
    """As it was written."""

    def __post_init__(self) -> None:
        first, last = self._layers()
        known = (*BRANCHES, *ENDS, QK)
        if self.text not in known and not 1 <= first <= last:
            raise ValueError(f"expected layers such as '2' or '1-3', or one of {', '.join(known)}, got {self.text!r}")

    def holds(self, site: Site) -> bool:
        """Whether a site belongs to it. Layers mean the branches in them, not the norms at the ends."""
        first, last = self._layers()
        return self.text == site.kind or (site.kind in BRANCHES and first <= site.layer <= last)

    def _layers(self) -> tuple[int, int]:
        """Give the first and the last layer; (0, 0) where it is none in numbers."""
        first, dash, last = self.text.partition("-")
        numbers = (first, last if dash else first)
        if not all(number.isascii() and number.isdigit() for number in numbers):
            return 0, 0
        return int(numbers[0]), int(numbers[1])


@dataclass(frozen=True, kw_only=True)
class LayeredNorm:
    """Different norms at different sites: one for the rest, others where they are named, the first that holds."""

    rest: NormFactory
    """Where no other holds."""
    chosen: tuple[tuple[Where, NormFactory], ...]
    """The others."""

    def named(self, site: Site) -> NormFactory | None:
        """Give the norm that is named for a site; None where it is one of the rest."""
        return next((norm for where, norm in self.chosen if where.holds(site)), None)

    def at(self, site: Site) -> NormFactory:
        """Give the norm of a site."""
        return self.named(site) or self.rest

    def __call__(self, width: int) -> nn.Module:
        """Make the norm of the rest: what a network without named sites gets."""
        return self.rest(width)


def norm_at(norm: NormFactory, site: Site) -> NormFactory:
    """Give the norm that stands at a site: what has a method ``at`` knows different ones."""
    choose = getattr(norm, "at", None)
    return norm if choose is None else choose(site)


def named_norm(norm: NormFactory, site: Site) -> NormFactory | None:
    """Give the norm that is named for a site; None where there is one for all."""
    choose = getattr(norm, "named", None)
    return None if choose is None else choose(site)
