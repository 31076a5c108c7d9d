"""What chance is, counted from the data sets' own labels, and which networks beat it."""

from collections import Counter

import pytest
from scipy.stats import binom

from normscope.data import load_digits
from normscope.papers import PAPERS
from normscope.papers.judging.agreement import RIGHT, learned, limit, trains
from normscope.tasks import TASKS
from normscope.tasks.task import Metric


def test_every_task_of_a_paper_has_a_limit() -> None:
    for paper in PAPERS.values():
        for task in paper.tasks:
            assert limit(task, TASKS[task].metric) > 0


def test_what_nobody_said_is_asked_for() -> None:
    with pytest.raises(LookupError, match=r"what chance is in % on nowhere is not known: RIGHT or LIMITS in normscope"):
        limit("nowhere", TASKS["rt"].metric)
    with pytest.raises(LookupError, match="what chance is in nats a token on rt"):
        limit("rt", Metric(name="loss", unit="nats a token", higher_is_better=False))


def test_digits_are_ten_even_classes() -> None:
    labels = Counter(load_digits().test.y.tolist())
    examples = RIGHT["digits"][1]
    assert sum(labels.values()) == examples
    assert len(labels) == 10
    assert max(labels.values()) < examples * (100 - limit("digits", TASKS["digits"].metric)) / 100


def test_guessing_seldom_passes_and_learning_does() -> None:
    for task in ("rt", "sst5", "mnist_cnn"):
        right, examples, _ = RIGHT[task]
        at = limit(task, TASKS[task].metric)
        assert 0.01 < binom.sf(at / 100 * examples, examples, right / 100) < 0.04
    assert not learned(50.9, "rt", TASKS["rt"].metric)
    assert learned(76.85, "rt", TASKS["rt"].metric)
    assert not learned(28.64, "sst5", TASKS["sst5"].metric)
    assert not learned(90.0, "digits", TASKS["digits"].metric)
    assert learned(3.0, "digits", TASKS["digits"].metric)


def test_bleu_and_bits_have_a_limit_of_their_own() -> None:
    bleu, bits = TASKS["wmt_en_de_10k"].metric, TASKS["enwiki_small"].metric
    assert [learned(each, "wmt_en_de_10k", bleu) for each in (1.2, 2.0, 2.1)] == [False, False, True]
    assert [learned(each, "enwiki_small", bits) for each in (7.7, 5.2, 2.4)] == [False, False, True]


def test_runs_are_judged_by_their_mean() -> None:
    bleu = TASKS["wmt_en_de_10k"].metric
    assert trains([0.0, 10.0], "wmt_en_de_10k", bleu)
    assert not trains([0.0, 3.9], "wmt_en_de_10k", bleu)
    assert not trains([], "wmt_en_de_10k", bleu)
