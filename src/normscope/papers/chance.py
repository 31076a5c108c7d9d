"""What a network gets that has learned nothing: where the baseline is no better, a study can show nothing."""

from collections.abc import Collection

from normscope.papers.audit import share_error
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
