"""Post-LN below, Pre-LN above: the two classical placements, and their mixture."""

import math

from normscope.placement.blocks import PostNorm, PreNorm
from normscope.placement.placement import Placement
from normscope.placement.site import Site

POST = Placement(equation="x <- N(x + f(x))", block=PostNorm)
"""The original transformer's; no further final norm."""

PRE = Placement(equation="x <- x + f(N(x)); N at the end", block=PreNorm, normalize_final=True)
"""The norm moved into the branch; the final norm included."""


def mix(site: Site, *, share: float) -> Placement:
    """Choose Post-LN for the first ``floor(share * layers)`` layers, and Pre-LN for the rest.

    Raises:
        ValueError: If ``share`` is not from 0 to 1.

    References:
        Li, Yin, Liu (2024). Mix-LN: unleashing the power of deeper layers by combining Pre-LN and Post-LN.
        arXiv:2412.13795.
        Departs from it in: nothing.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    # 0.29 of 100 layers are 29; in floating point their product is 28.999999999999996.
    return POST if site.layer <= math.floor(round(share * site.layers, 9)) else PRE
