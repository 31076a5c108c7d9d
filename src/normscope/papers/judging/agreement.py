"""The judgement of a published cell, and the comparison of an interval of ours with a published figure."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from normscope.papers.judging.audit import audit, audit_count, epsilon_of, share_error
from normscope.papers.judging.cell import Cell, Count, Epsilon, NormsAt
from normscope.results.statistics import MOST_SEEDS, Interval
from normscope.tasks.task import Metric

ERRORS = 2.0
"""Number of standard errors of the test set by which a share must exceed chance."""

RIGHT = {
    "digits": (10.0, 510, "one of ten digits"),
    "mnist_mlp": (11.35, 10_000, "always the largest class"),
    "mnist_mlp_batch4": (11.35, 10_000, "always the largest class"),
    "mnist_cnn": (11.35, 10_000, "always the largest class"),
    "cifar10": (10.0, 10_000, "one of ten classes"),
    "cifar10_part": (10.0, 5_000, "one of ten classes"),
    "cnn_cloze": (4.0, 3_198, "one of about 26 entities"),
    "novels_cloze": (10.0, 4_930, "one of ten candidates"),
    "coco_order": (0.54, 5_000, "mean of 1, 5 and 10 of 1,000, both ways"),
    "multi30k_order": (0.54, 1_000, "mean of 1, 5 and 10 of 1,000, both ways"),
    "book_corpus_skip_thoughts": (56.7, 35_536, "always the largest class of each set"),
    "novels_skip_thoughts": (53.5, 4_000, "always the largest class of each set"),
    "rt": (50.0, 1066, "one of two classes"),
    "sst5": (28.64, 2210, "always the largest class, 633 sentences"),
    "ud_ewt": (28.88, 25_094, "the next word is the head"),
    "ptb": (28.88, 25_094, "the next word is the head, as in ud_ewt"),
}
"""Percentage correct by chance, number of test examples, and the strategy that reaches it, by task."""

RANGES: dict[str, Interval] = {"%": (0.0, 100.0), "BLEU": (0.0, 100.0), "bpc": (0.0, math.inf)}
"""Values that are possible, by unit; intervals are cut to them, which does not change their coverage."""

LIMITS = {"BLEU": 2.0, "bpc": 5.0, "nats": 205.0, "nats/point": 2.8}
"""Values that copying or repeating reaches, by unit.

Drawing letters by frequency costs 5.2 bits in enwiki_small. Drawing every pixel of binarized MNIST by its own frequency
costs 205.8 nats; a Gaussian for every pen offset, standardized, costs 2.84 nats and the pen's lifting some more.
"""


def limit(task: str, metric: Metric, chance: float | None = None) -> float:
    """Return the value that a run must exceed to have learned anything, in the metric's unit.

    For a percentage correct it is chance plus :data:`ERRORS` binomial standard errors of the test set; for an error
    rate, 100 % minus that.

    Args:
        task: Task of the runs.
        metric: Metric of the runs.
        chance: What the cell says of it, see :attr:`normscope.papers.judging.cell.Cell.chance`; it comes first.

    Raises:
        LookupError: If the value reached by chance is unknown for this task.
    """
    if chance is not None:
        return chance
    if metric.unit in LIMITS:
        return LIMITS[metric.unit]
    if metric.unit != "%" or task not in RIGHT:
        raise LookupError(f"what chance is in {metric.unit} on {task} is not known: RIGHT or LIMITS in {__name__}")
    right, examples, _ = RIGHT[task]
    share = right + ERRORS * share_error(right, examples)
    return share if metric.higher_is_better else 100 - share


def learned(value: float, task: str, metric: Metric, chance: float | None = None) -> bool:
    """Return whether a value is better than :func:`limit`."""
    least = limit(task, metric, chance)
    return value > least if metric.higher_is_better else value < least


def trains(values: Collection[float], task: str, metric: Metric, chance: float | None = None) -> bool:
    """Return whether runs with these values have learned anything on average; False if there are no values."""
    return len(values) > 0 and learned(sum(values) / len(values), task, metric, chance)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A published cell beside our result; an undefined quantity is None."""

    cell: Cell | Count
    """Published cell or count."""
    task: str
    """Task of our runs; empty for a count over several data sets."""
    verdict: str
    """``reproduced``, ``not reproduced``, ``not run here``, ``not compared``, or ``cannot tell:`` with a reason.

    The reason is what is needed (``needs n seeds``, ``needs a larger test set``, ``needs n more data sets``), or why
    more of the same would not help (``cut short``, ``the baseline does not train``, ``the scorer is not the paper's``,
    ``it is smaller than epsilon``).
    """
    because: str
    """Reason for the verdict."""
    ours: float | None = None
    """Our figure or paired difference, in the metric's unit; for a count, the number of data sets that agree."""
    interval: Interval | None = None
    """Hull of the next two intervals: a verdict must hold for both kinds of noise."""
    interval_seeds: Interval | None = None
    """t interval across seeds."""
    interval_examples: Interval | None = None
    """Bootstrap interval across test examples."""
    pairs: int = 0
    """Number of seeds that it rests on."""
    epsilon: Epsilon | None = None
    """Largest distance from the published figure that counts as agreement."""
    direction: Literal[1, -1] | None = None
    """1 if the arm is shown to be better than its baseline, however slightly, -1 if worse; None if neither."""
    within_margin: bool = False
    """Whether the difference is shown to lie within our margin, in either direction."""
    signature: str = ""
    """Signature of our scorer, if it has one; that of the paper is in the cell."""
    norms_at: NormsAt = "all"
    """Which norms our arms replace."""
    seeds_needed: int | None = None
    """Total number of seeds needed, if more are needed."""
    caution: str = ""
    """Why the p values of the study are exploratory, which ``because`` says of a decided verdict; empty otherwise."""
    beside: tuple[tuple[str, "Judgement"], ...] = ()
    """Judgements of the same cell under other conditions, by name: untuned, or with the plain initialization."""
    obstacle: Mapping[str, Any] | None = None
    """Why this machine cannot tell, as :func:`normscope.papers.judging.obstacles.obstacle` returns it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the judgement as plain values for JSON."""
        cell = None if isinstance(self.cell, Count) else self.cell
        basis = audit_count(self.cell) if isinstance(self.cell, Count) else audit(self.cell)
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
            "measure": cell.measure if cell else "",
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
            "beside": [
                {
                    "condition": condition,
                    **{name: getattr(each, name) for name in ("verdict", "because", "ours", "pairs")},
                    "interval": _listed(each.interval),
                }
                for condition, each in self.beside
            ],
            "obstacle": None if self.obstacle is None else dict(self.obstacle),
            "audit": {
                "words": basis.words,
                "examples": basis.examples,
                "errors": list(basis.errors),
                "error_independent": basis.error_independent,
                "error_least": basis.error_least,
                "z": _listed(basis.z),
                "p": basis.p,
            },
            "differs": cell.differs if cell else "",
        }


def not_run(cell: Cell, reason: str, *, task: str = "", margin: float | None = None) -> Judgement:
    """Return the judgement of a cell for which nothing was run."""
    wide = margin is not None or cell.epsilon is not None
    return Judgement(
        cell=cell,
        task=task,
        verdict="not run here",
        because=reason,
        epsilon=epsilon_of(cell, margin or 0.0)
        if wide and cell.kind == "difference" and cell.published is not None
        else None,
    )


def side_of(interval: Interval, *, significant: bool) -> Literal[-1, 0, 1]:
    """Return the sign of a whole interval; 0 if it contains zero or the test is not significant."""
    low, high = interval
    return 0 if not significant or low <= 0 <= high else (1 if low > 0 else -1)


def decide(
    published: float, epsilon: float, interval: Interval, *, significant: bool, sizes: Interval | None
) -> tuple[str, str] | None:
    """Compare an interval of our difference with a published difference.

    A significant difference of the opposite sign comes first: it refutes the claim, whatever epsilon is. Next come the
    claimed direction with significance, then closeness, then distance. Closeness does not count if epsilon exceeds the
    published difference: two arms that learned nothing would then reproduce every small improvement.

    Args:
        published: Published arm minus baseline; 0 claims no direction.
        epsilon: Largest distance from it that counts as agreement.
        interval: Our interval at level 1 - alpha; it shows a direction if ``significant``, which is after Holm.
        significant: Whether our test finds a difference.
        sizes: Our interval at level 1 - alpha / m for m comparisons, so that closeness and distance are corrected for
            their number, as directions are; None if only directions are compared.

    Returns:
        The verdict and its reason, or None if more seeds may decide.
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
    """Return a judgement that ``seeds`` seeds in total are needed, or more than ``MOST_SEEDS`` if None."""
    many = f"over {MOST_SEEDS}" if seeds is None else str(seeds)
    return replace(base, verdict=f"cannot tell: needs {many} seeds", because=why, seeds_needed=seeds)


def _listed(pair: tuple[float, float] | None) -> list[float | None] | None:
    """Return the ends as a list for JSON, which has no infinity."""
    return None if pair is None else [end if math.isfinite(end) else None for end in pair]
