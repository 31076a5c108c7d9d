"""The noise of the test set: a paired bootstrap over its examples."""

from collections.abc import Sequence

import numpy as np

from normscope.results.aggregates import AGGREGATES, Aggregate, resampled
from normscope.results.statistics import RESAMPLES, Interval, tail

# Below so many distinct values per example, their counts are drawn; above, the examples themselves.
_FEW_VALUES = 256


def examples_intervals(
    arm: np.ndarray,
    baseline: np.ndarray,
    *,
    levels: Sequence[float],
    aggregate: Aggregate = AGGREGATES["mean"],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """Give percentile intervals of the mean difference over resampled test examples: the noise of the test set alone.

    ``S`` seeds, ``E`` examples. Scores of one number each that are averaged take a short way: the scores are averaged
    over the seeds, and the examples are drawn with replacement, the same for both sides. Where the averaged differences
    take few values, as they do for right-or-wrong scores, most being zero, the number of examples with each value is
    drawn instead of the examples: the same distribution, a thousand times faster.

    Args:
        arm: Scores, ``[S, E]``, one row a seed; ``[S, E, K]`` where the aggregate takes K numbers an example.
        baseline: Likewise, of the same seeds and examples.
        levels: Nominal coverage of every interval wanted; all come from the same resamples.
        aggregate: How the scores of examples become one value.
        rng: Source of the resamples.
        resamples: How many.

    Returns:
        One interval a level.

    Raises:
        ValueError: If the shapes differ, are not ``[S, E]`` with at least one of each, or a score is not finite.

    References:
        Efron and Tibshirani (1993). An introduction to the bootstrap, section 13.3.
    """
    if aggregate.width > 1:
        return _ends(resampled(arm, baseline, aggregate, rng=rng, resamples=resamples), levels)
    shapes = np.shape(arm), np.shape(baseline)
    for shape in shapes:
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"expected scores [seeds, examples], one of each at least, got an array {list(shape)}")
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected both sides' scores of equal shape, got {list(shapes[0])} and {list(shapes[1])}")
    scores = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite, got NaN or infinity")
    return _ends(_resampled_means(scores.mean(axis=0), rng, resamples), levels)


def _ends(resamples: np.ndarray, levels: Sequence[float]) -> list[Interval]:
    ends = [np.quantile(resamples, [tail(level), 1 - tail(level)]) for level in levels]
    return [(float(low), float(high)) for low, high in ends]


def _resampled_means(differences: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    examples = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    if len(values) <= _FEW_VALUES:
        return rng.multinomial(examples, counts / examples, size=resamples) @ values / examples
    means = np.empty(resamples)
    rows = max(1, 2**20 // examples)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), examples)
        means[start : start + rows] = differences.take(rng.integers(examples, size=shape)).mean(axis=1)
    return means
