"""The looks of a study, written into its specification before the first run: when its arms are tested."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

from normscope.results.look_plan import DEFAULT_SPENDING, LookPlan, Spending
from normscope.results.sequential import DEFAULT_LOOKS
from normscope.results.statistics import LEAST_PAIRS, fewest_pairs

__tracebackhide__ = True

DEFAULT_SEEDS = tuple(range(10))
"""Ten seeds; with five, a sign-flip test cannot reach 0.05."""


def plan_looks(
    seeds: int | Sequence[int] | None,
    looks: Sequence[int],
    *,
    until_decided: bool,
    most: int | None,
    spending: Spending | None,
    level: float,
) -> tuple[LookPlan | None, tuple[int, ...]]:
    """Return the looks and the seeds that the options of :func:`normscope.make_study` stand for.

    Args:
        seeds: As for :func:`normscope.make_study`.
        looks: Numbers of pairs; if empty, the default ones at which a claim is possible.
        until_decided: Whether there are looks if ``looks`` is empty.
        most: Number of pairs of the last look; if None, the number of seeds, or else the last of the looks.
        spending: Function that spends alpha over the looks; None for the default.
        level: Level of the strictest test, that of Holm's first step.

    Raises:
        TypeError: If a seed is not a whole number.
        ValueError: If a number is out of range, or the options contradict each other.
    """
    given, looks = None if seeds is None else whole_numbers(seeds), tuple(int(count) for count in looks)
    if not looks and not until_decided:
        if most is not None or spending is not None:
            option = "max_seeds" if most is not None else "spending"
            raise ValueError(f"{option} is for studies with looks: add until_decided, or give looks")
        return None, DEFAULT_SEEDS if given is None else given
    if looks != tuple(sorted(set(looks))):
        raise ValueError(f"looks must ascend, such as 10, 20, 30, got {looks}")
    last = max(looks or DEFAULT_LOOKS) if given is None else len(given)
    largest = max(most or 0, *looks, 0)
    if given is not None and largest > last:
        raise ValueError(f"{largest} pairs need as many seeds, got {last}")
    most = last if most is None else most
    seeds = tuple(range(most)) if given is None else given[:most]
    if looks:
        pairs = [*(count for count in looks if count < most), most]
        return LookPlan(pairs=tuple(pairs), spending=spending or DEFAULT_SPENDING), seeds
    pairs = [*DEFAULT_LOOKS]
    while pairs[-1] < most:
        # Half more pairs each time, in steps of five.
        pairs.append(5 * math.ceil(pairs[-1] * 0.3))
    pairs = [*(count for count in pairs if count < most), most]
    if len(pairs) < 2:
        raise ValueError(
            f"the looks of until_decided begin at {DEFAULT_LOOKS[0]} pairs, got a maximum of {most}: choose more "
            "max_seeds, or give looks"
        )
    plan = LookPlan(pairs=tuple(pairs), spending=spending or DEFAULT_SPENDING)
    first = next((look for look, pairs in enumerate(plan.pairs) if _can_claim(plan, look, level)), 0)
    return LookPlan(pairs=plan.pairs[min(first, len(pairs) - 2) :], spending=plan.spending), seeds


def check_looks(plan: LookPlan, seeds: int, *, alpha: float, comparisons: int) -> None:
    """Check that the looks of a study end at its last seed, and that it can claim something there.

    Raises:
        ValueError: If they do not; the message names a maximum that would do.
    """
    if plan.pairs[-1] != seeds:
        raise ValueError(f"the last look must be at the number of seeds, got {plan.pairs[-1]} and {seeds} seeds")
    if not comparisons:
        raise ValueError("a study with looks needs two arms at least: there is nothing to decide")
    if plan.pairs[0] < LEAST_PAIRS:
        raise ValueError(f"nothing is claimed below {LEAST_PAIRS} pairs, got a look at {plan.pairs[0]}")
    least = fewest_pairs(alpha / comparisons)
    if plan.pairs[-1] < least:
        raise ValueError(
            f"{plan.pairs[-1]} pairs cannot claim anything with {comparisons} comparisons: {least} at least would do, "
            "better twice as many"
        )


def _can_claim(plan: LookPlan, look: int, level: float) -> bool:
    """Return whether the most extreme differences would be claimed at a look: those of one sign."""
    pairs = plan.pairs[look]
    return pairs >= LEAST_PAIRS and 2.0 ** (1 - pairs) <= plan.spent(level)[look]


def whole_numbers(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """Return seeds as a tuple; an int ``n`` stands for the seeds 0 to n - 1.

    Raises:
        TypeError: If a seed is not a whole number.
        ValueError: If there are no seeds, one is negative, or one occurs twice.
    """
    given = (
        (seeds,)
        if isinstance(seeds, bool)
        else tuple(range(int(seeds)) if isinstance(seeds, int | Integral) else seeds)
    )
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in given):
        raise TypeError(f"seeds must be whole numbers, got {list(given)}")
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0 up, got {list(given)}")
    return tuple(int(seed) for seed in given)
