"""Critical values of sign-flip tests that are made at several looks, by following sign vectors through them."""

from collections.abc import Sequence

import numpy as np

from normscope.results.statistics import flipped_sums

DRAWS = 2**15 - 1
"""Number of sign vectors drawn where there are too many to enumerate; the observed one is counted with them."""

# Sums closer than this share of the sum of all sizes are ties: values that went through float32.
_ROUNDING = 1e-6


def critical_values(
    sizes: np.ndarray,
    looks: Sequence[int],
    spent: np.ndarray,
    *,
    two_sided: bool,
    rng: np.random.Generator,
    draws: int = DRAWS,
    kept: float = 0.0,
    seen: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the sum from which on the observed sign vector is rejected, for each look and level.

    At each look and level, the vectors with the largest sums among those alive are rejected, ties together, as many as
    keep the rejected share of all vectors at or below what is spent; what could not be used stays for the next look.
    A vector counts as rejected at a level if this and every higher level reject it by then.

    Up to log2(``draws`` + 1) signs, all vectors are enumerated (two-sided, a vector and its opposite are one). At
    later looks ``draws`` random vectors are followed through all looks, with the critical values already there, and
    the observed one is one more: the number rejected may grow by the share not yet spent, which bounds the expected
    share of the observed vector, since it and those drawn are exchangeable.

    Args:
        sizes: Absolute differences, ``[P]``.
        looks: Number of pairs at each look, ascending, ``K`` of them; at most ``P``.
        spent: Share of vectors that may be rejected by the end of each look, ``[K, L]``, ascending over levels.
        two_sided: Whether a sum far below zero counts as much as one far above.
        rng: Random generator of the signs, used from the first look on that is not enumerated.
        draws: Number of sign vectors drawn; one less than a power of two.
        kept: Sum of the first ``seen`` differences, whose signs are not flipped.
        seen: Number of pairs whose signs are not flipped.

    Returns:
        Critical values ``[K, L]``, infinite where nothing may be rejected; and whether a vector alive reaches them.
    """
    levels = spent.shape[1]
    halved = two_sided and not seen
    enumerated = int(np.log2(draws + 1)) + seen + halved
    cuts, fresh = np.full((len(looks), levels), np.inf), np.zeros((len(looks), levels), dtype=bool)
    total, first, used, position = np.full(1, kept), np.full(1, levels), np.zeros(levels), seen
    for look, pairs in enumerate(looks):
        drawn = pairs > enumerated
        if drawn:
            # The first look beyond enumeration goes through the earlier ones once more.
            for at in range(0 if position <= enumerated else look, look + 1):
                if at == 0:
                    total, first, position = np.full(draws, kept), np.full(draws, levels), seen
                total, position = total + flipped_sums(sizes[position : looks[at]], draws, rng), looks[at]
                if at < look:
                    first = lowest_level(np.abs(total) if two_sided else total, cuts[at], first)
        else:
            for size in sizes[position:pairs]:
                # Two-sided, the first sign is fixed.
                alone = halved and position == 0
                total = total + size if alone else np.concatenate([total + size, total - size])
                first = first if alone else np.tile(first, 2)
                position += 1
        before, count = rejected(first, levels), len(total) + drawn
        room = np.maximum(np.floor((spent[look] - used) * count + 1e-9), 0).astype(int)
        statistic = np.abs(total) if two_sided else total
        # Of the pairs up to the look, so that later ones change nothing.
        tolerance = _ROUNDING * sizes[:pairs].sum()
        cuts[look], fresh[look], first = _reject(statistic, first, before, room, tolerance, observed_apart=drawn)
        used = used + (rejected(first, levels) - before) / count
        fresh[look] &= cuts[look] <= abs(kept) + sizes[seen:pairs].sum()
    return cuts, fresh


def lowest_level(statistic: np.ndarray, cuts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Compute the lowest level such that it and every higher one reject each vector at a look or before, as an index.

    Args:
        statistic: Sum of each vector, ``[N]``.
        cuts: Critical values of the look for each level, ``[L]``.
        first: The same level at the look before, ``[N]``; ``L`` where no level rejects.
    """
    order = np.argsort(-statistic)
    after, ranked = np.empty_like(first), first[order]
    for level, top in reversed(list(enumerate(np.searchsorted(-statistic[order], -cuts, side="right")))):
        _lower(ranked[:top], level)
    after[order] = ranked
    return after


def rejected(first: np.ndarray, levels: int) -> np.ndarray:
    """Count the vectors rejected at each level, given the lowest level that rejects each, ``[L]``."""
    return np.cumsum(np.bincount(first, minlength=levels + 1)[:levels])


def _lower(first: np.ndarray, level: int) -> None:
    """Let a level reject vectors that all higher ones reject."""
    first[first == level + 1] = level


def _reject(
    statistic: np.ndarray,
    first: np.ndarray,
    before: np.ndarray,
    room: np.ndarray,
    tolerance: float,
    *,
    observed_apart: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reject the largest statistics alive at each level; return critical values, their freshness and new levels."""
    order = np.argsort(-statistic)
    ranked, lowest = statistic[order], first[order]
    ends = np.flatnonzero(np.concatenate([[True], ranked[:-1] - ranked[1:] > tolerance, [True]]))
    cuts, fresh = np.full(len(room), np.inf), np.zeros(len(room), dtype=bool)
    for level in np.flatnonzero(room)[::-1]:
        places = room[level]
        alive = np.flatnonzero(lowest[: places + before[level] + 1] > level)
        # Ties are rejected together or not at all.
        others, below = (
            ends[np.searchsorted(ends, alive[place] if len(alive) > place else len(ranked), side="right") - 1]
            for place in (places, places - observed_apart)
        )
        fresh[level] = observed_apart or (len(alive) > 0 and alive[0] < others)
        if observed_apart:
            # It takes a place itself, and is rejected where it lies above the first that then has none.
            cuts[level] = ranked[below] + tolerance / 2 if below < len(ranked) else -np.inf
        elif others:
            cuts[level] = ranked[others - 1] - tolerance / 2
        _lower(lowest[:others], level)
    after = np.empty_like(first)
    after[order] = lowest
    return cuts, fresh, after
