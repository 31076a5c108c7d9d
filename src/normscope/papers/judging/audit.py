"""The evidence behind a published figure: number of test examples, standard errors, number of runs.

Papers print one run per arm and no spread, so the standard error of the test set is the least uncertainty to allow for.
"""

import math
from dataclasses import dataclass

from normscope.papers.judging.cell import Cell, Count, Epsilon
from normscope.results.statistics import sign_test

SEED_SPREAD = (0.04, 0.23)
"""Smallest and largest published standard deviation over seeds of one translation setting, in BLEU.

IWSLT'14 De-En, three arms of five seeds each, tokenized BLEU (the recipe of Liu et al. 2020, Admin: Post-LN 0.23, Admin
0.15, Pre-LN 0.04).
"""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Evidence behind a cell; an unknown quantity is None. Errors are in the metric's unit."""

    words: str
    """Description of all of it."""
    examples: float | None = None
    """Number of test examples that the difference corresponds to."""
    errors: tuple[float, ...] = ()
    """Standard error of each printed figure over test examples."""
    error_independent: float | None = None
    """Standard error of the difference if the two were measured on independent test sets."""
    error_least: float | None = None
    """Smallest possible standard error on one test set: only the examples that make the difference are disputed."""
    z: tuple[float, float] | None = None
    """Difference in units of the two errors; the true value lies between, since disputed examples are not printed."""
    p: float | None = None
    """p-value of a two-sided sign test, for a count."""


def share_error(percent: float, examples: int) -> float:
    r"""Compute the binomial standard error of a share, :math:`100 \sqrt{q (1 - q) / n}` with :math:`q = percent / 100`.

    Args:
        percent: Share, 0 to 100.
        examples: n, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (0 <= percent <= 100 and examples >= 1):
        raise ValueError(f"expected a share of 0 to 100 % of at least one example, got {percent} % of {examples}")
    share = percent / 100
    return 100 * math.sqrt(share * (1 - share) / examples)


def least_paired_error(difference: float, examples: int) -> float:
    r"""Compute the smallest possible standard error of a difference of two shares on one test set.

    If b examples are correct only on one side and c only on the other, the difference is
    :math:`\delta = (b - c) / n` and its variance :math:`((b + c) / n - \delta^2) / n`, least where c = 0:
    :math:`(|\delta| - \delta^2) / n`.

    Args:
        difference: Difference in percentage points.
        examples: n, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (-100 <= difference <= 100 and examples >= 1):
        raise ValueError(f"expected -100 to 100 points over at least one example, got {difference} over {examples}")
    delta = abs(difference) / 100
    return 100 * math.sqrt((delta - delta**2) / examples)


def audit(cell: Cell) -> Audit:
    """Return the evidence behind a published cell."""
    if cell.kind == "diverges":
        return Audit(words="one run, as far as is printed; what counts as diverging is not said")
    if cell.published is None:
        return Audit(words="words alone, on one run each as far as is printed")
    if cell.kind == "faster":
        return Audit(words="a sentence on the curves of one run each, as far as is printed")
    if cell.metric.unit == "%" and cell.examples is not None and cell.printed:
        return _audit_share(cell, cell.examples)
    if cell.metric.unit == "BLEU":
        return _audit_bleu(cell)
    return Audit(words="one run, printed without a spread; no spread for this data set is published that we know of")


def audit_count(count: Count) -> Audit:
    """Return the evidence behind a count of data sets: its sign test, in which a tie is not a win."""
    sets = len(count.cells)
    p = sign_test(count.published, sets)
    words = f"sign test of {count.published} of {sets}: two-sided p = {p:.2g}"
    if count.ties and 0 not in count.wanted:
        without = sign_test(count.published, sets - count.ties)
        words += f"; {without:.2g} where {'the tie is' if count.ties == 1 else 'ties are'} left out"
    return Audit(words=f"{words}; says nothing of sizes", p=p)


def epsilon_of(cell: Cell, margin: float) -> Epsilon:
    """Return the epsilon of a difference: its own, or the larger of our margin and the published standard error.

    Args:
        cell: The published difference.
        margin: The task's smallest difference worth having, in the metric's unit.
    """
    if cell.epsilon is not None:
        return cell.epsilon
    error = audit(cell).error_independent
    if error is not None and error > margin:
        return Epsilon(
            value=error,
            reason=f"the published figure's standard error on {cell.examples:,} test examples",
        )
    return Epsilon(value=margin, reason="our margin, the smallest difference worth having")


def _audit_share(cell: Cell, examples: int) -> Audit:
    errors = tuple(share_error(each, examples) for each in cell.printed)
    note = f" ({cell.examples_note})" if cell.examples_note else ""
    if len(errors) == 1:
        words = f"{errors[0]:.2f} points standard error on {examples:,} test examples{note}; one run"
        return Audit(words=words, errors=errors)
    difference = cell.published or 0.0
    independent = math.hypot(*errors)
    least = least_paired_error(difference, examples)
    count = abs(difference) / 100 * examples
    words = f"{abs(difference):.2f} points are {count:.3g} of {examples:,} test examples{note}; one run each; "
    if not least:
        words += f"standard error up to {independent:.2f} points were the tests independent"
        return Audit(words=words, examples=count, errors=errors, error_independent=independent, error_least=least)
    z = (difference / independent, difference / least)
    words += (
        f"standard error {independent:.2f} points were the tests independent (z = {z[0]:+.1f}), {least:.2f} at the "
        f"least on one test set (z = {z[1]:+.1f}): which examples are disputed is not printed"
    )
    return Audit(words=words, examples=count, errors=errors, error_independent=independent, error_least=least, z=z)


def _audit_bleu(cell: Cell) -> Audit:
    low, high = SEED_SPREAD
    seeds = f"seeds of one setting vary by {low} to {high} BLEU (sd, IWSLT'14 De-En, 5 seeds an arm)"
    other = "" if cell.task == "iwslt14_de_en" else ", none is published for this set"
    if cell.kind == "value":
        return Audit(words=f"one run; {seeds}{other}; the scorer's settings are not printed")
    ends = math.sqrt(2) * low, math.sqrt(2) * high
    difference = cell.published or 0.0
    z = (difference / ends[1], difference / ends[0])
    words = (
        f"one run each; {seeds}{other}, a difference of two runs by {ends[0]:.2f} to {ends[1]:.2f}: {difference:+.1f} "
        f"is {abs(z[0]):.1f} to {abs(z[1]):.1f} of them"
    )
    return Audit(words=words, z=z)
