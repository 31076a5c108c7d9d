"""What is said of one published cell, in a few words and why; and how an interval is held against a figure."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from normscope.papers.judging.audit import audit, audit_count, epsilon_of, share_error
from normscope.papers.judging.cell import Cell, Count, Epsilon
from normscope.results.statistics import MOST_SEEDS, Interval
from normscope.tasks.task import Metric

ERRORS = 2.0
"""Standard errors of the test set by which a share must beat chance."""

RIGHT = {
    "digits": (10.0, 510, "one of ten digits"),
    "mnist_mlp": (11.35, 10_000, "always the largest class"),
    "mnist_mlp_batch4": (11.35, 10_000, "always the largest class"),
    "mnist_cnn": (11.35, 10_000, "always the largest class"),
    "rt": (50.0, 1066, "one of two classes"),
    "sst5": (28.64, 2210, "always the largest class, 633 sentences"),
    "ud_ewt": (28.88, 25_094, "the next word is the head"),
    "ptb": (28.88, 25_094, "the next word is the head, as in ud_ewt"),
}
"""Per cent right by chance, of how many test examples, and how."""

LIMITS = {"BLEU": 2.0, "bpc": 5.0}
"""By unit: what copying or repeating gets; letters drawn by their frequency cost 5.2 bits in enwiki_small."""


def limit(task: str, metric: Metric) -> float:
    """Give the value that a run must beat to have learned anything, in the metric's unit.

    Of a share that is chance and :data:`ERRORS` binomial standard errors of the test set; of an error 100 % less that.

    Raises:
        LookupError: If nobody has said what chance is on this task.
    """
    if metric.unit in LIMITS:
        return LIMITS[metric.unit]
    if metric.unit != "%" or task not in RIGHT:
        raise LookupError(f"what chance is in {metric.unit} on {task} is not known: RIGHT or LIMITS in {__name__}")
    right, examples, _ = RIGHT[task]
    share = right + ERRORS * share_error(right, examples)
    return share if metric.higher_is_better else 100 - share


def learned(value: float, task: str, metric: Metric) -> bool:
    """Whether a value is better than :func:`limit`."""
    return value > limit(task, metric) if metric.higher_is_better else value < limit(task, metric)


def trains(values: Collection[float], task: str, metric: Metric) -> bool:
    """Whether runs that ended with these values have, on average, learned anything; never where there are none."""
    return len(values) > 0 and learned(sum(values) / len(values), task, metric)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A published cell beside ours; what cannot be said is None."""

    cell: Cell | Count
    """What is judged."""
    task: str
    """Where ours was run; empty for a count over several."""
    verdict: str
    """``reproduced``, ``not reproduced``, ``not run here``, ``not compared``, or ``cannot tell:`` and what it needs:
    ``needs n seeds``, ``needs a larger test set``, ``needs n more data sets``, or why more of the same would not help:
    ``cut short``, ``the baseline does not train``, ``the scorer is not the paper's``, ``it is smaller than epsilon``.
    """
    because: str
    """Why, in words."""
    ours: float | None = None
    """Our figure or paired difference, in the metric's unit; of a count, the data sets that agree."""
    interval: Interval | None = None
    """The wider of the two below at each end: a verdict must survive both kinds of noise."""
    interval_seeds: Interval | None = None
    """t interval across seeds."""
    interval_examples: Interval | None = None
    """Bootstrap across test examples."""
    pairs: int = 0
    """Seeds that it rests on."""
    epsilon: Epsilon | None = None
    """How far ours may lie from the published figure."""
    direction: int | None = None
    """1 where the arm is shown to be better than its baseline, however little, -1 worse; None where it is not shown."""
    within_margin: bool = False
    """Whether the difference is shown to lie within our margin, on whichever side."""
    signature: str = ""
    """Of our scorer, where it has one; the paper's is the cell's."""
    norms_at: str = "all"
    """Which norms our arms replaced."""
    seeds_needed: int | None = None
    """In all, where it cannot be told yet."""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        cell = None if isinstance(self.cell, Count) else self.cell
        found = audit_count(self.cell) if isinstance(self.cell, Count) else audit(self.cell)
        return {
            "id": self.cell.id,
            "tables": list(self.cell.tables),
            "source": self.cell.source,
            "says": self.cell.says,
            "kind": cell.kind if cell else "count",
            "paper_task": cell.task if cell else "",
            "task": self.task,
            "stand_in": cell is not None and self.task not in ("", cell.task),
            "unit": cell.metric.unit if cell else "data sets",
            "published": self.cell.published,
            "ours": self.ours,
            **{name: _listed(getattr(self, name)) for name in ("interval", "interval_seeds", "interval_examples")},
            "pairs": self.pairs,
            "epsilon": self.epsilon and self.epsilon.value,
            "epsilon_reason": self.epsilon and self.epsilon.reason,
            "verdict": self.verdict,
            "because": self.because,
            "seeds_needed": self.seeds_needed,
            "direction": self.direction,
            "within_margin": self.within_margin,
            "signature": self.signature,
            "norms_at": self.norms_at,
            "audit": {
                "words": found.words,
                "examples": found.examples,
                "errors": list(found.errors),
                "error_independent": found.error_independent,
                "error_least": found.error_least,
                "z": _listed(found.z),
                "p": found.p,
            },
            "differs": cell.differs if cell else "",
        }


def not_run(cell: Cell, reason: str, *, task: str = "", margin: float | None = None) -> Judgement:
    """Say that nothing was run, and why."""
    wide = margin is not None or cell.epsilon is not None
    return Judgement(
        cell=cell,
        task=task,
        verdict="not run here",
        because=reason,
        epsilon=epsilon_of(cell, margin or 0.0) if wide and cell.kind == "difference" else None,
    )


def side_of(interval: Interval, *, significant: bool) -> int:
    """Give the side of zero that a whole interval lies on, 1 or -1; 0 where it holds zero or our test finds nothing."""
    low, high = interval
    return 0 if not significant or low <= 0 <= high else (1 if low > 0 else -1)


def decide(
    published: float, epsilon: float, interval: Interval, *, significant: bool, sizes: Interval | None
) -> tuple[str, str] | None:
    """Hold an interval of a difference against a published one.

    A difference on the other side of zero, with significance, comes first: it refutes the claim, however wide epsilon
    is. Then the claimed direction with significance, then nearness, then distance. Nearness does not count where
    epsilon is wider than the published difference: two arms that learned nothing would then reproduce every small gain.

    Args:
        published: Arm minus baseline, as printed; 0 claims no direction.
        epsilon: How far ours may lie from it.
        interval: Ours, at level 1 - alpha; with ``significant``, which is Holm's, it shows a direction.
        significant: Whether our test finds a difference at all.
        sizes: Ours at level 1 - alpha / m, m the comparisons of the family, so that nearness and distance pay for their
            number as directions do; None where sizes are not compared, and the direction is all.

    Returns:
        The verdict and why, or None where more seeds may decide.
    """
    side = side_of(interval, significant=significant)
    claimed = (published > 0) - (published < 0)
    if side and claimed and side != claimed:
        return "not reproduced", "ours lies on the other side of zero"
    if sizes is None:
        return ("reproduced", "the direction") if side and claimed else None
    low, high = sizes
    least, most = published - epsilon, published + epsilon
    inside = least <= low and high <= most
    if side and side == claimed:
        if inside:
            return "reproduced", "the direction, and the size within epsilon"
        if high < least or low > most:
            smaller = (high < least) == (claimed > 0)
            return "reproduced", f"the direction; ours is {'smaller' if smaller else 'larger'} by more than epsilon"
        return "reproduced", "the direction; the size is open"
    if (high < least and claimed >= 0) or (low > most and claimed <= 0):
        words = ", and does not show its direction" if claimed else ""
        return "not reproduced", f"ours lies further from it than epsilon{words}"
    if inside and epsilon < abs(published):
        return "reproduced", "the size within epsilon; the direction is not shown"
    if inside and not claimed:
        return "reproduced", "no difference beyond epsilon"
    if inside and (high < published if claimed > 0 else low > published):
        return "cannot tell: it is smaller than epsilon", "ours is smaller still, and shows no direction"
    return None


def cannot_tell(base: Judgement, seeds: int | None, why: str) -> Judgement:
    """Say that more seeds are needed, ``seeds`` in all, or more than anybody runs where None."""
    many = f"over {MOST_SEEDS}" if seeds is None else str(seeds)
    return replace(base, verdict=f"cannot tell: needs {many} seeds", because=why, seeds_needed=seeds)


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)
