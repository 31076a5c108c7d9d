"""What a published figure rests on: how many test examples, how many standard errors, how many runs.

Papers print one run an arm and no spread, so the error of its test set is the least that must be allowed for.
"""

import math
from dataclasses import dataclass

from scipy import special

from normscope.papers.judging.cell import Cell, Count, Epsilon

SEED_SPREAD = (0.04, 0.23)
"""Smallest and largest published sd over seeds of one translation setting, in BLEU: IWSLT'14 De-En, three arms of five
seeds each, tokenized BLEU (the recipe of Liu et al. 2020, Admin: Post-LN 0.23, Admin 0.15, Pre-LN 0.04)."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a cell rests on; None where it cannot be said. Errors are in the metric's unit."""

    words: str
    """All of it for people."""
    examples: float | None = None
    """Test examples that the difference comes to."""
    errors: tuple[float, ...] = ()
    """Standard error of each printed figure over test examples."""
    error_independent: float | None = None
    """Of their difference, if the two were measured on different test sets."""
    error_least: float | None = None
    """The smallest that it can be on one test set: nothing is disputed but the examples that make the difference."""
    z: tuple[float, float] | None = None
    """The difference in such errors; the truth lies between, for which examples are disputed is not printed."""
    p: float | None = None
    """Two-sided sign test, of a count."""


def share_error(percent: float, examples: int) -> float:
    r"""Give the binomial standard error of a share, :math:`100 \sqrt{q (1 - q) / n}` with :math:`q = percent / 100`.

    Args:
        percent: The share, 0 to 100.
        examples: n, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (0 <= percent <= 100 and examples >= 1):
        raise ValueError(f"expected a share of 0 to 100 % of at least one example, got {percent} % of {examples}")
    share = percent / 100
    return 100 * math.sqrt(share * (1 - share) / examples)


def least_paired_error(difference: float, examples: int) -> float:
    r"""Give the smallest standard error that a difference of two shares on one test set can have.

    With b examples that only one side has right and c that only the other has, the difference is
    :math:`\delta = (b - c) / n` and its variance :math:`((b + c) / n - \delta^2) / n`, least where c = 0:
    :math:`(|\delta| - \delta^2) / n`.

    Args:
        difference: In points of per cent.
        examples: n, at least 1.

    Raises:
        ValueError: If a number is out of range.
    """
    if not (-100 <= difference <= 100 and examples >= 1):
        raise ValueError(f"expected -100 to 100 points over at least one example, got {difference} over {examples}")
    delta = abs(difference) / 100
    return 100 * math.sqrt((delta - delta**2) / examples)


def sign_test(wins: int, of: int) -> float:
    """Give the two-sided p of at least so many wins, or as few, among ``of`` data sets, each a coin's toss.

    Raises:
        ValueError: If there are no data sets, or more wins than that.
    """
    if not 0 <= wins <= of or of < 1:
        raise ValueError(f"expected 0 to {of} wins of at least one data set, got {wins} of {of}")
    most = max(wins, of - wins)
    return min(1.0, 2 * float(special.bdtrc(most - 1, of, 0.5)))


def audit(cell: Cell) -> Audit:
    """Say what a published cell rests on."""
    if cell.kind == "diverges":
        return Audit(words="one run, as far as is printed; what counts as diverging is not said")
    if cell.metric.unit == "%" and cell.examples is not None and cell.printed:
        return _audit_share(cell, cell.examples)
    if cell.metric.unit == "BLEU":
        return _audit_bleu(cell)
    return Audit(words="one run, printed without a spread; no spread for this data set is published that we know of")


def audit_count(count: Count) -> Audit:
    """Say how surprising a count of data sets would be if nothing mattered: a tie counts as no win."""
    sets = len(count.cells)
    p = sign_test(count.published, sets)
    words = f"sign test of {count.published} of {sets}: two-sided p = {p:.2g}"
    if count.ties and 0 not in count.wanted:
        without = sign_test(count.published, sets - count.ties)
        words += f"; {without:.2g} where {'the tie is' if count.ties == 1 else 'ties are'} left out"
    return Audit(words=f"{words}; says nothing of sizes", p=p)


def epsilon_of(cell: Cell, margin: float) -> Epsilon:
    """Give a difference's epsilon: its own, or the larger of our margin and the published test-set standard error.

    Args:
        cell: The published difference.
        margin: The task's smallest difference worth having, in the metric's unit.
    """
    if cell.epsilon is not None:
        return cell.epsilon
    found = audit(cell)
    if found.error_independent is not None and found.error_independent > margin:
        return Epsilon(
            value=found.error_independent,
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
    told = f"seeds of one setting vary by {low} to {high} BLEU (sd, IWSLT'14 De-En, 5 seeds an arm)"
    own = "" if cell.task == "iwslt14_de_en" else ", none is published for this set"
    if cell.kind == "value":
        return Audit(words=f"one run; {told}{own}; the scorer's settings are not printed")
    ends = math.sqrt(2) * low, math.sqrt(2) * high
    difference = cell.published or 0.0
    z = (difference / ends[1], difference / ends[0])
    words = (
        f"one run each; {told}{own}, a difference of two runs by {ends[0]:.2f} to {ends[1]:.2f}: {difference:+.1f} is "
        f"{abs(z[0]):.1f} to {abs(z[1]):.1f} of them"
    )
    return Audit(words=words, z=z)
