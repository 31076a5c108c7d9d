"""Sites: positions of norms and branches in a network, and the norm to use at each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

NormFactory = Callable[[int], nn.Module]
"""Builds a norm from its width."""

SiteKind = Literal["attention", "cross_attention", "feed_forward", "stem", "final", "qk"]
StreamPart = Literal["only", "encoder", "decoder"]

BRANCHES: tuple[SiteKind, ...] = ("attention", "cross_attention", "feed_forward")
"""Kinds of residual branches; a layer ends with its ``feed_forward``."""

ENDS: tuple[SiteKind, ...] = ("stem", "final")
"""Kinds of sites outside the branches: before the first, after the last."""

QK: SiteKind = "qk"
"""Site of a norm on the queries and keys of every head, which exists only if a norm is named for it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One position in one residual stream.

    Example:
        >>> from normscope.placement import PLACEMENTS, Site
        >>> site = Site(kind="feed_forward", layer=1, layers=12)
        >>> PLACEMENTS["mix"].at(site).equation
        'x <- N(x + f(x))'
    """

    kind: SiteKind
    """One of :data:`BRANCHES` or :data:`ENDS`, or :data:`QK`."""
    layer: int
    """Index of its layer, from 1; 0 for the stem, that of the last layer for the final norm."""
    layers: int
    """Number of layers of its stream."""
    part: StreamPart = "only"
    """Which stream of the network it is."""
    other_layers: int = 0
    """Number of layers of the other stream of an encoder-decoder; 0 if there is only one stream."""
    branches: int | None = None
    """Number of residual branches of its stream, over all layers; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """A subset of the sites, in the notation of the command line: ``1-3``, ``2``, ``final``, ``feed_forward``, ``qk``.

    Raises:
        ValueError: If ``text`` is neither a range of layers nor a kind of site.

    Example:
        >>> from normscope.placement import Site, Where
        >>> site = Site(kind="attention", layer=2, layers=6)
        >>> Where(text="1-3").holds(site), Where(text="final").holds(site)
        (True, False)
    """

    text: str
    """The notation."""

    def __post_init__(self) -> None:
        first, last = self._layers()
        known = (*BRANCHES, *ENDS, QK)
        if self.text not in known and not 1 <= first <= last:
            raise ValueError(f"expected layers such as '2' or '1-3', or one of {', '.join(known)}, got {self.text!r}")

    def holds(self, site: Site) -> bool:
        """Return whether it contains a site; a range of layers contains their branches, not the norms at the ends."""
        first, last = self._layers()
        return self.text == site.kind or (site.kind in BRANCHES and first <= site.layer <= last)

    def _layers(self) -> tuple[int, int]:
        """Return the first and last layer index, or (0, 0) if the text is not a numeric range."""
        first, dash, last = self.text.partition("-")
        numbers = (first, last if dash else first)
        if not all(number.isascii() and number.isdigit() for number in numbers):
            return 0, 0
        return int(numbers[0]), int(numbers[1])


@dataclass(frozen=True, kw_only=True)
class LayeredNorm:
    """A norm that differs between sites: the first of ``chosen`` that contains the site, otherwise ``rest``.

    Example:
        >>> from normscope import LayerNorm, RMSNorm
        >>> from normscope.placement import LayeredNorm, Site, Where
        >>> norm = LayeredNorm(rest=LayerNorm, chosen=((Where(text="final"), RMSNorm),))
        >>> norm.at(Site(kind="final", layer=2, layers=2)).__name__
        'RMSNorm'
    """

    rest: NormFactory
    chosen: tuple[tuple[Where, NormFactory], ...]

    def named(self, site: Site) -> NormFactory | None:
        """Return the norm that is named for a site, or None if that is ``rest``."""
        return next((norm for where, norm in self.chosen if where.holds(site)), None)

    def at(self, site: Site) -> NormFactory:
        """Return the norm of a site."""
        return self.named(site) or self.rest

    def __call__(self, width: int) -> nn.Module:
        """Build ``rest``, for a network without sites."""
        return self.rest(width)


def norm_at(norm: NormFactory, site: Site) -> NormFactory:
    """Return the norm of a site: ``norm.at(site)`` if it differs between sites, otherwise ``norm``.

    Example:
        >>> from normscope import NormSpec
        >>> from normscope.placement import Site, norm_at
        >>> norm = NormSpec.parse("layer_norm+rms_norm:final").factory
        >>> site = Site(kind="final", layer=2, layers=2)
        >>> type(norm_at(norm, site)(8)).__name__
        'RMSNorm'
    """
    choose = getattr(norm, "at", None)
    return norm if choose is None else choose(site)


def named_norm(norm: NormFactory, site: Site) -> NormFactory | None:
    """Return the norm that is named for a site, or None if ``norm`` does not differ between sites.

    Example:
        >>> from normscope import LayerNorm
        >>> from normscope.placement import Site, named_norm
        >>> named_norm(LayerNorm, Site(kind="final", layer=2, layers=2)) is None
        True
    """
    choose = getattr(norm, "named", None)
    return None if choose is None else choose(site)
