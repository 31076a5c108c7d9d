"""How far a study came through its planned looks, and the looks of a card; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from normscope.results.look_plan import LookPlan, Spending


@dataclass(frozen=True, kw_only=True)
class NextLook:
    """What the next look of a study takes."""

    pairs: int
    """Number of pairs of every arm that goes on."""
    runs: int
    """Number of runs that have not ended."""
    minutes: float | None
    """Time that they take, from the medians of the finished ones; None before any has finished."""


@dataclass(frozen=True, kw_only=True)
class EarlierLooks:
    """The looks that were planned before the plan was changed at one of them."""

    pairs: tuple[int, ...]
    """Number of pairs at each look."""
    spending: Spending
    """How alpha was to be spent over them."""
    seen: int
    """Number of pairs at the look after which the plan was changed, before the last."""

    @property
    def plan(self) -> LookPlan:
        """The plan of these looks."""
        return LookPlan(pairs=self.pairs, spending=self.spending)

    @property
    def caution(self) -> str:
        """What became of the error rates."""
        return f"exploratory: the plan of {self.pairs[-1]} seeds was changed after {self.seen}"


@dataclass(frozen=True, kw_only=True)
class LookState:
    """The looks of a study and how far it came, as summary.json has it."""

    pairs: tuple[int, ...]
    """Number of pairs at each look; the last is the maximum."""
    spending: Spending
    """How alpha is spent over the looks."""
    reached: int
    """Number of looks whose runs have all ended."""
    ended: Literal["decided", "maximum", "time", "hopeless"] | None
    """``"decided"``: every arm is decided, or has runs that failed. ``"maximum"``: the last look left arms undecided.
    ``"hopeless"``: nothing could still change. ``"time"``: the time of the last call was up. None while it goes on."""
    next: NextLook | None
    """The next look; None if the study has ended."""
    continues: EarlierLooks | None = None
    """The looks before the plan was changed: differences are then tested at their conditional level, and all else is
    exploratory. None if it was not changed, or not before the last look."""


def read_plan(card: Mapping[str, Any], path: Path) -> LookPlan | None:
    """Return the looks of a card, or None if it has none.

    Where the plan was changed, they are the earlier looks that were seen, and of the new ones those that are not
    before the earlier maximum, since the conditional level depends on all pairs up to there.

    Args:
        card: Card of the study.
        path: Its file, for the error message.

    Raises:
        ValueError: If the looks do not ascend to the number of seeds; the message names the file.
    """
    looks = card.get("looks")
    if looks is None:
        return None
    try:
        plan = LookPlan(pairs=tuple(looks["pairs"]), spending=looks["spending"])
        earlier = read_earlier(card)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if plan.pairs[-1] != len(card["seeds"]):
        raise ValueError(f"{path} has {len(card['seeds'])} seeds, expected those of its last look, {plan.pairs[-1]}")
    if earlier is None:
        return plan
    last = earlier.pairs[-1]
    later = {last, *(pairs for pairs in plan.pairs if pairs > last)}
    return replace(plan, pairs=(*(pairs for pairs in earlier.pairs if pairs <= earlier.seen), *sorted(later)))


def read_earlier(card: Mapping[str, Any]) -> EarlierLooks | None:
    """Return the looks before the plan was changed.

    Raises:
        ValueError: If they were changed at none of them, or do not come before the new ones.
    """
    content = card.get("continues")
    if content is None:
        return None
    earlier = EarlierLooks(pairs=tuple(content["pairs"]), spending=content["spending"], seen=content["seen"])
    if earlier.seen not in earlier.plan.pairs[:-1] or not earlier.pairs[-1] < card["looks"]["pairs"][-1]:
        raise ValueError(f"continues must have looks before the last one, changed at one of them, got {content}")
    return earlier
