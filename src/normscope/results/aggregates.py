"""Values of a test set from per-example scores: mean, ratio, percentage, corpus BLEU or recalls; numpy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from normscope.results.statistics import RESAMPLES, Interval, tail

# Number of resampled counts, or drawn examples, in memory at once: 8 MB as integers.
_COUNTS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A value of a test set that depends only on sums over its examples.

    There are ``E`` examples with ``K = width`` numbers each.
    """

    name: str
    """Key in :data:`AGGREGATES`."""
    columns: tuple[str, ...]
    """Names of the numbers of an example, in order."""
    formula: Callable[[np.ndarray, int], np.ndarray]
    """Maps sums ``[..., K]`` float64 and the number of examples to values ``[...]``."""

    @property
    def width(self) -> int:
        """Number of scores per example, ``K``."""
        return len(self.columns)

    def of(self, totals: np.ndarray, examples: int) -> np.ndarray:
        """Compute the value from sums over examples.

        Args:
            totals: ``[..., K]``, each the sum over ``examples`` examples.
            examples: Number of summed examples; one that was drawn twice counts twice.

        Returns:
            ``[...]`` float64.

        Raises:
            ValueError: If the last dimension is not ``K``, or the denominators of a ratio do not sum to a positive
                number.
        """
        totals = np.asarray(totals, dtype=np.float64)
        if totals.ndim < 1 or totals.shape[-1] != self.width:
            raise ValueError(f"{self.name} expects sums [..., {self.width}], got {list(totals.shape)}")
        return self.formula(totals, examples)

    def value(self, scores: np.ndarray) -> float:
        """Compute the value of a test set.

        Args:
            scores: ``[E, K]``, or ``[E]`` if ``K`` is 1.

        Returns:
            The value, in the metric's unit.

        Raises:
            ValueError: If the shape differs, there is no example, a score is not finite, or the denominators of a
                ratio do not sum to a positive number.
        """
        statistics = self._checked(np.asarray(scores)[None])[0]
        return float(self.of(statistics.sum(axis=0), len(statistics)))

    def _checked(self, scores: np.ndarray) -> np.ndarray:
        """Return scores as ``[S, E, K]`` float64, in which sums of counts are exact.

        Raises:
            ValueError: If the shape differs, a dimension is empty, or a score is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim == 2 and self.width == 1:
            values = values[..., None]
        if values.ndim != 3 or values.shape[-1] != self.width or 0 in values.shape:
            raise ValueError(
                f"{self.name} expects for every example {self.width} ({', '.join(self.columns)}) and at least one "
                f"example, got an array {list(np.shape(scores)[1:])}"
            )
        if not np.isfinite(values).all():
            raise ValueError("scores must be finite, got NaN or infinity")
        return values


def resampled(
    arm: np.ndarray,
    baseline: np.ndarray,
    aggregate: Aggregate,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    r"""Resample the test examples, and compute the arm's value minus the baseline's for every resample.

    With :math:`S` seeds, :math:`w_{re}` the number of times that resample :math:`r` drew example :math:`e` (the same
    for both sides and all seeds), and :math:`A` the aggregate of sums:

    .. math::
        d_r = \frac{1}{S} \sum_s A\Big(\sum_e w_{re}\, x^{arm}_{se}\Big) - A\Big(\sum_e w_{re}\, x^{base}_{se}\Big)

    Args:
        arm: Scores, ``[S, E, K]``, or ``[S, E]`` if ``K`` is 1.
        baseline: Scores of the same seeds and examples.
        aggregate: Aggregate of the scores.
        rng: Random generator of the resamples.
        resamples: Number of resamples, ``R``.

    Returns:
        Differences ``[R]`` float64. Memory grows with the scores, not with ``R`` times ``E``.

    Raises:
        ValueError: If the shapes differ or are not as above, a score is not finite, or ``resamples`` is less than 1.

    References:
        Efron and Tibshirani (1993). An introduction to the bootstrap, section 13.3.
        Koehn (2004). Statistical significance tests for machine translation evaluation, section 3.
        Departs from it in: the values are averaged over several seeds before they are subtracted.
    """
    if np.shape(arm) != np.shape(baseline):
        raise ValueError(
            f"expected scores [seeds, examples, ...] of equal shape, got {list(np.shape(arm))} and "
            f"{list(np.shape(baseline))}"
        )
    if resamples < 1:
        raise ValueError(f"resamples must be one or more, got {resamples}")
    both = np.stack([aggregate._checked(arm), aggregate._checked(baseline)])
    _, seeds, examples, width = both.shape
    columns = np.ascontiguousarray(both.transpose(2, 0, 1, 3)).reshape(examples, -1)
    differences = np.empty(resamples)
    rows = max(1, _COUNTS_AT_ONCE // examples)
    for start in range(0, resamples, rows):
        counts = _draw_counts(min(rows, resamples - start), examples, rng)
        totals = (counts @ columns).reshape(len(counts), 2, seeds, width)
        values = aggregate.of(totals, examples).mean(axis=-1)
        differences[start : start + rows] = values[:, 0] - values[:, 1]
    return differences


def _draw_counts(rows: int, examples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the count of each example in each resample, ``[rows, examples]``: a multinomial, but ten times faster."""
    drawn = rng.integers(examples, size=(rows, examples)) + examples * np.arange(rows)[:, None]
    return np.bincount(drawn.reshape(-1), minlength=rows * examples).reshape(rows, examples).astype(np.float64)


def _mean(totals: np.ndarray, examples: int) -> np.ndarray:
    return totals[..., 0] / examples


def _ratio(totals: np.ndarray, examples: int) -> np.ndarray:
    """Divide the sums of numerators by the sums of denominators.

    Raises:
        ValueError: If a sum of denominators is not positive.
    """
    least = totals[..., 1].min(initial=np.inf)
    if not least > 0:
        raise ValueError(f"denominators must sum to more than zero over {examples} examples, got {least}")
    return totals[..., 0] / totals[..., 1]


def _percentage(totals: np.ndarray, examples: int) -> np.ndarray:
    return 100.0 * _ratio(totals, examples)


def _bleu(totals: np.ndarray, examples: int) -> np.ndarray:
    r"""Compute corpus BLEU with exponential smoothing, 0 to 100.

    .. math::
        100\, \min(1, e^{1 - r/c}) \prod_{n=1}^{4} p_n^{1/4}, \quad
        p_n = \begin{cases} m_n / t_n & m_n > 0 \\ 2^{-z_n} / t_n & m_n = 0 \end{cases}

    :math:`c` and :math:`r` are the system's and the reference's length, :math:`m_n` of :math:`t_n` n-grams match, and
    :math:`z_n` is the number of orders up to :math:`n` without a match. BLEU is 0 if nothing matches or an order has no
    n-gram at all.

    References:
        Papineni et al. (2002). BLEU. Section 2.3. Chen and Cherry (2014), smoothing method 3.
    """
    system, reference = totals[..., 0], totals[..., 1]
    matched, possible = totals[..., 2:6], totals[..., 6:10]
    zero = (matched.max(axis=-1) <= 0) | (possible.min(axis=-1) <= 0)
    absent = matched <= 0
    smoothed = np.where(absent, 0.5 ** absent.cumsum(axis=-1), matched)
    precision = smoothed / np.where(possible > 0, possible, 1.0)
    length = np.where(system > 0, system, 1.0)
    brevity = np.where(system < reference, np.exp(1 - np.maximum(reference / length, 1.0)), 1.0)
    return np.where(zero, 0.0, 100.0 * brevity * np.exp(np.log(precision).mean(axis=-1)))


_RECALLS = (0, 1, 2, 4, 5, 6)
"""Columns of the recalls of ``retrieval``."""


def _retrieval(totals: np.ndarray, examples: int) -> np.ndarray:
    return totals[..., _RECALLS].mean(axis=-1) / examples


AGGREGATES: dict[str, Aggregate] = {
    "mean": Aggregate(name="mean", columns=("score",), formula=_mean),
    "ratio": Aggregate(name="ratio", columns=("numerator", "denominator"), formula=_ratio),
    "percentage": Aggregate(name="percentage", columns=("numerator", "denominator"), formula=_percentage),
    "bleu": Aggregate(
        name="bleu",
        columns=(
            "system length",
            "reference length",
            *(f"matched {order}-grams" for order in range(1, 5)),
            *(f"{order}-grams" for order in range(1, 5)),
        ),
        formula=_bleu,
    ),
    "retrieval": Aggregate(
        name="retrieval",
        columns=tuple(
            f"{sought} {measure}" for sought in ("caption", "image") for measure in ("R@1", "R@5", "R@10", "mean rank")
        ),
        formula=_retrieval,
    ),
}
"""Aggregates by the name that the metric of a card has."""


def share_limits(aggregate: Aggregate, unit: str, scores: np.ndarray) -> Interval | None:
    """Return the range of a value that is a share of its examples, such as 0 to 100 for an accuracy in percent.

    Args:
        aggregate: Aggregate of the scores.
        unit: Unit of the metric.
        scores: Scores, ``[..., E]``, or ``[..., E, K]`` if the aggregate takes K numbers per example.

    Returns:
        The range; None if the value is no share: not in percent or BLEU, or an example scores below 0 or above 100 %.
    """
    if aggregate.name == "mean":
        inside = unit == "%" and scores.min() >= 0 and scores.max() <= 100
    elif aggregate.name == "percentage":
        inside = bool(((scores[..., 0] >= 0) & (scores[..., 0] <= scores[..., 1])).all())
    else:
        inside = aggregate.name in {"bleu", "retrieval"}
    return (0.0, 100.0) if inside else None


# Up to this number of distinct differences, their counts are drawn instead of the examples.
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
    """Compute percentile bootstrap intervals of the mean difference over test examples: the noise of the test set.

    For the mean, scores are first averaged over the ``S`` seeds, and the ``E`` examples are then drawn with
    replacement, the same ones for both sides. If the averaged differences take few values, as for right-or-wrong
    scores, the number of examples with each value is drawn instead: the same distribution, a thousand times faster.

    Args:
        arm: Scores, ``[S, E]``, or ``[S, E, K]`` if the aggregate takes K numbers per example.
        baseline: Scores of the same seeds and examples.
        levels: Nominal coverage of each interval; all intervals come from the same resamples.
        aggregate: Aggregate of the scores.
        rng: Random generator of the resamples.
        resamples: Number of resamples.

    Returns:
        One interval per level.

    Raises:
        ValueError: If the shapes differ or are not as above, there is no seed or example, or a score is not finite.

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
    means = sum_over_seeds(arm, baseline) / shapes[0][0]
    if not np.isfinite(means).all():
        raise ValueError("scores must be finite, got NaN or infinity")
    return _ends(_resampled_means(means, rng, resamples), levels)


def sum_over_seeds(
    arm: np.ndarray, baseline: np.ndarray, change: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Compute the sum over seeds of arm minus baseline for every example, ``[E]`` float64, a few megabytes at a time.

    Args:
        arm: Scores, ``[S, E]``.
        baseline: Scores of the same seeds and examples.
        change: Function of the differences, ``[rows, E]``, the sum of which is computed instead.
    """
    seeds, examples = np.shape(arm)
    rows, total = max(1, _COUNTS_AT_ONCE // examples), np.zeros((0, examples))
    for start in range(0, seeds, rows):
        part = np.asarray(arm[start : start + rows], dtype=np.float64) - np.asarray(
            baseline[start : start + rows], dtype=np.float64
        )
        part = part if change is None else change(part)
        total = np.concatenate([total, part]).sum(axis=0, keepdims=True)
    return total[0]


def _ends(resamples: np.ndarray, levels: Sequence[float]) -> list[Interval]:
    ends = [np.quantile(resamples, [tail(level), 1 - tail(level)]) for level in levels]
    return [(float(low), float(high)) for low, high in ends]


def _resampled_means(differences: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    examples = len(differences)
    values, counts = np.unique(differences, return_counts=True)
    if len(values) <= _FEW_VALUES:
        return rng.multinomial(examples, counts / examples, size=resamples) @ values / examples
    means = np.empty(resamples)
    rows = max(1, _COUNTS_AT_ONCE // examples)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), examples)
        means[start : start + rows] = differences.take(rng.integers(examples, size=shape)).mean(axis=1)
    return means
