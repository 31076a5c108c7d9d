"""Aggregates against sacreBLEU and by hand; the bootstrap against a slow loop and sacreBLEU's own."""

import random
import tracemalloc

import numpy as np
import pytest

from normscope.results import aggregates
from normscope.results.aggregates import AGGREGATES, resampled

MEAN, RATIO, PERCENTAGE, BLEU = (AGGREGATES[name] for name in ("mean", "ratio", "percentage", "bleu"))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sentences(seed: int, count: int, *, words: int = 6, shortest: int = 0, longest: int = 14) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(words)}" for _ in range(draw.randint(shortest, longest))) for _ in range(count)]


def counted(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """Count by hand what BLEU needs."""
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = hypothesis.split(), reference.split()
        matched, possible = [], []
        for order in range(1, 5):
            grams = [[tuple(side[i : i + order]) for i in range(len(side) - order + 1)] for side in (ours, theirs)]
            matched.append(sum(min(grams[0].count(gram), grams[1].count(gram)) for gram in set(grams[0])))
            possible.append(len(grams[0]))
        rows.append([len(ours), len(theirs), *matched, *possible])
    return np.array(rows, dtype=np.float32)


def noisy(references: list[str], share: float, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        " ".join(word if draw.random() > share else f"w{draw.randrange(6)}" for word in reference.split())
        for reference in references
    ]


def test_every_aggregate_goes_by_its_key() -> None:
    assert all(key == aggregate.name for key, aggregate in AGGREGATES.items())
    assert [aggregate.width for aggregate in AGGREGATES.values()] == [1, 2, 2, 10, 8]


def test_by_hand() -> None:
    assert MEAN.value(np.array([1.0, 2.0, 6.0])) == 3.0
    assert MEAN.value(np.array([[1.0], [2.0], [6.0]])) == 3.0
    # 3 of 4, 0 of 1, 9 of 10 words: 12 of 15, not the mean of three shares, which is 55 %.
    attached = np.array([[3, 4], [0, 1], [9, 10]], dtype=np.float32)
    assert PERCENTAGE.value(attached) == pytest.approx(80.0, rel=1e-15)
    assert RATIO.value(attached) == pytest.approx(0.8, rel=1e-15)
    # An example of no words is no error as long as another one has some.
    assert RATIO.value(np.array([[0, 0], [1.5, 2.0]])) == 0.75


def test_recalls_of_a_hand_computed_case() -> None:
    recalls = AGGREGATES["retrieval"]
    scores = np.array([[100, 100, 100, 1, 20, 60, 80, 7], [0, 0, 100, 9, 0, 20, 60, 11]], dtype=np.float32)
    # The ranks, columns 3 and 7, are kept for their means, and no part of the value.
    assert recalls.value(scores) == pytest.approx((50 + 50 + 100 + 10 + 40 + 70) / 6, rel=1e-15)
    ranks = [recalls.columns.index(f"{sought} mean rank") for sought in ("caption", "image")]
    assert scores.mean(0)[ranks].tolist() == [5, 9]
    assert aggregates.share_limits(recalls, "%", scores) == (0.0, 100.0)


@pytest.mark.parametrize(
    "case",
    [
        (sentences(1, 50), sentences(2, 50)),
        (sentences(3, 3), sentences(4, 3)),
        # Unigrams and bigrams match, and nothing longer: smoothed twice.
        (["w0 w1 x x w2 w3"], ["w0 w1 y y y w2 w3"]),
        # Only unigrams match: smoothed three times.
        (["w0 x w1 x"], ["w0 y w1 y y"]),
        # Nothing matches.
        (["x x x x x"], ["y y y y y"]),
        # No 4-gram at all.
        (["w0 w1 w2"], ["w0 w1 w2"]),
        (["", "w0 w1 w2 w3 w4"], ["w1 w2", "w0 w1 w2 w3 w4"]),
        ([""], ["w0"]),
        (["w0 w1 w2 w3 w4"], [""]),
        # Longer than the reference: no reward.
        (["w0 w1 w2 w3 w4 w5 w6"], ["w0 w1 w2 w3"]),
    ],
)
def test_bleu_is_sacrebleus(case: tuple[list[str], list[str]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses, references = case
    want = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="none").score
    assert BLEU.value(counted(hypotheses, references)) == pytest.approx(want, abs=1e-9)


def test_bleu_of_a_hand_computed_case() -> None:
    # One sentence of 6 against 8 words; 5, 3, 1 and 0 matches among 6, 5, 4 and 3 n-grams.
    value = BLEU.value(np.array([[6, 8, 5, 3, 1, 0, 6, 5, 4, 3]]))
    assert value == pytest.approx(100 * np.exp(1 - 8 / 6) * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, rel=1e-14)


def test_sums_of_any_shape_are_computed_together() -> None:
    scores = counted(sentences(1, 24), sentences(2, 24)).astype(np.float64)
    totals = scores.reshape(2, 3, 4, 10).sum(axis=2)
    want = [[BLEU.value(scores[12 * i + 4 * j :][:4]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(BLEU.of(totals, 4), want, rtol=1e-14)


def test_bootstrap_is_the_slow_loop_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    references = sentences(5, 30, shortest=4)
    arm = np.stack([counted(noisy(references, 0.2, seed), references) for seed in range(3)])
    baseline = np.stack([counted(noisy(references, 0.3, 10 + seed), references) for seed in range(3)])
    # Chunks of 5 resamples, so that the last one is short.
    monkeypatch.setattr(aggregates, "_COUNTS_AT_ONCE", 5 * 30)
    got = resampled(arm, baseline, BLEU, rng=generator(), resamples=52)
    indices = generator().integers(30, size=(52, 30))
    want = [np.mean([BLEU.value(arm[s, row]) - BLEU.value(baseline[s, row]) for s in range(3)]) for row in indices]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
    monkeypatch.undo()
    np.testing.assert_array_equal(got, resampled(arm, baseline, BLEU, rng=generator(), resamples=52))


@pytest.mark.parametrize("aggregate", [MEAN, RATIO, PERCENTAGE])
def test_bootstrap_of_the_others_is_the_slow_loop(aggregate: aggregates.Aggregate) -> None:
    scores = generator(1).uniform(0.5, 2.0, (2, 4, 25, aggregate.width))
    got = resampled(scores[0], scores[1], aggregate, rng=generator(), resamples=20)
    indices = generator().integers(25, size=(20, 25))
    want = [
        np.mean([aggregate.value(scores[0, s, row]) - aggregate.value(scores[1, s, row]) for s in range(4)])
        for row in indices
    ]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


def test_bootstrap_agrees_with_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    significance = pytest.importorskip("sacrebleu.significance")
    references = sentences(6, 200, words=40, shortest=5, longest=25)
    systems = [noisy(references, 0.1, 1), noisy(references, 0.1, 2)]
    metric = sacrebleu.BLEU(tokenize="none", references=[references])
    test = significance.PairedTest(
        [("baseline", systems[0]), ("arm", systems[1])],
        {"BLEU": metric},
        references=None,
        test_type="bs",
        n_samples=1000,
        n_jobs=1,
    )
    _, scores = test()
    theirs = scores["BLEU"][1]
    arm, baseline = counted(systems[1], references), counted(systems[0], references)
    assert theirs.score == pytest.approx(BLEU.value(arm), abs=1e-9)
    difference = BLEU.value(arm) - BLEU.value(baseline)
    draws = resampled(arm[None], baseline[None], BLEU, rng=generator(), resamples=4000)
    # Their p: how often a resampled distance, less the mean distance, is beyond the one seen.
    ours = np.mean(np.abs(draws) - np.abs(draws).mean() > abs(difference))
    # Shares of 1,000 and 4,000 draws: a standard error of at most 0.018; four of them.
    assert ours == pytest.approx(theirs.p_value, abs=0.07)
    assert 0.02 < ours < 0.98
    # The interval of one system, by drawing it against a baseline that is worth nothing.
    alone = resampled(arm[None], np.zeros_like(arm)[None], BLEU, rng=generator(), resamples=4000)
    low, high = np.quantile(alone, [0.025, 0.975])
    # Both reaches are uncertain by about 5 %.
    assert (high - low) / 2 == pytest.approx(theirs.ci, rel=0.2)


def test_examples_are_drawn_for_both_sides_together() -> None:
    hard = generator().normal(0, 100.0, (1, 500))
    draws = resampled(hard + 1.0, hard, MEAN, rng=generator(), resamples=50)
    np.testing.assert_allclose(draws, 1.0, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_translation_test_set_is_resampled_in_little_memory() -> None:
    arm, baseline = generator(1).integers(1, 30, (2, 5, 7000, 10))
    tracemalloc.start()
    try:
        draws = resampled(arm, baseline, BLEU, rng=generator())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(draws) == 10_000
    # The counts of all resamples together would be 560 megabytes.
    assert peak < 150_000_000


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio expects for every example 2 \(numerator, denominator\).*\[5, 3\]"):
        RATIO.value(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"bleu expects sums \[\.\.\., 10\], got \[3, 9\]"):
        BLEU.of(np.zeros((3, 9)), 4)
    with pytest.raises(ValueError, match=r"at least one example, got an array \[0, 2\]"):
        RATIO.value(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="must be finite"):
        MEAN.value(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"sum to more than zero over 3 examples, got 0\.0"):
        RATIO.value(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"of equal shape, got \[2, 5\] and \[2, 6\]"):
        resampled(np.zeros((2, 5)), np.zeros((2, 6)), MEAN, rng=generator())
    with pytest.raises(ValueError, match="resamples must be one or more, got 0"):
        resampled(np.zeros((2, 5)), np.zeros((2, 5)), MEAN, rng=generator(), resamples=0)
