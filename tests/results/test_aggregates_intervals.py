"""The bootstrap over test examples, against the normal interval that it must approach."""

import numpy as np
import pytest

from normscope.results.aggregates import AGGREGATES, examples_intervals


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def right_or_wrong(shape: tuple[int, int], share: float, seed: int) -> np.ndarray:
    return (generator(seed).random(shape) < share).astype(np.float32)


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_examples_interval_agrees_with_the_normal_one_on_many_examples(kind):
    if kind == "binary":
        arm, baseline = right_or_wrong((5, 4000), 0.93, 1), right_or_wrong((5, 4000), 0.91, 2)
    else:
        arm, baseline = generator(1).normal(0.1, 1, (5, 4000)), generator(2).normal(0, 1, (5, 4000))
    [(low, high)] = examples_intervals(arm, baseline, levels=[0.95], rng=generator(), resamples=4000)
    each = (arm.astype(np.float64) - baseline).mean(axis=0)
    error = each.std() / len(each) ** 0.5
    # A 2.5 % quantile of 4,000 draws has a standard error of 0.042 standard deviations.
    assert (low, high) == pytest.approx((each.mean() - 1.96 * error, each.mean() + 1.96 * error), abs=0.15 * error)


def test_examples_are_drawn_for_both_sides_together():
    hard = generator().normal(0, 100.0, 500)
    arm, baseline = (hard + 1.0)[None], hard[None]
    [(low, high)] = examples_intervals(arm, baseline, levels=[0.95], rng=generator(), resamples=500)
    # 101 - 100 keeps 13 digits; drawn apart, the interval would be 25 wide.
    assert (low, high) == pytest.approx((1.0, 1.0), abs=1e-12)


def test_both_ways_of_drawing_examples_agree(monkeypatch):
    arm, baseline = right_or_wrong((3, 600), 0.9, 1), right_or_wrong((3, 600), 0.8, 2)
    counted = examples_intervals(arm, baseline, levels=[0.95, 0.9], rng=generator())
    monkeypatch.setattr("normscope.results.aggregates._FEW_VALUES", 0)
    drawn = examples_intervals(arm, baseline, levels=[0.95, 0.9], rng=generator())
    error = (arm - baseline).mean(axis=0).std() / 600**0.5
    # Quantiles of 10,000 draws: 0.027 standard deviations each; and a step of 1 / 1800.
    np.testing.assert_allclose(counted, drawn, rtol=0, atol=0.13 * error + 1 / 1800)


def test_a_wider_level_holds_a_narrower_one():
    arm, baseline = generator(1).normal(size=(2, 300)), generator(2).normal(size=(2, 300))
    wide, narrow = examples_intervals(arm, baseline, levels=[0.95, 0.9], rng=generator(), resamples=1000)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    again = examples_intervals(arm, baseline, levels=[0.9], rng=generator(), resamples=1000)
    assert again == [narrow]


class Sparing(np.random.Generator):
    """Draws counts and no single examples."""

    def integers(self, *args, **named):
        raise AssertionError("single examples were drawn")


def test_right_and_wrong_answers_are_drawn_as_counts():
    # 10,000 resamples of 10,000 examples would be drawn a hundred million times one by one.
    arm, baseline = right_or_wrong((10, 10_000), 0.97, 0), right_or_wrong((10, 10_000), 0.97, 100)
    (found,) = examples_intervals(arm, baseline, levels=[0.95], rng=Sparing(np.random.PCG64(0)))
    assert found[0] < (arm - baseline).mean() < found[1]
    with pytest.raises(AssertionError, match="single examples were drawn"):
        examples_intervals(
            *generator(1).normal(size=(2, 1, 10_000)), levels=[0.95], rng=Sparing(np.random.PCG64(0)), resamples=2
        )


def test_examples_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"of equal shape, got \[2, 5\] and \[2, 6\]"):
        examples_intervals(np.zeros((2, 5)), np.zeros((2, 6)), levels=[0.95], rng=generator())
    with pytest.raises(ValueError, match=r"got an array \[5\]"):
        examples_intervals(np.zeros(5), np.zeros(5), levels=[0.95], rng=generator())
    with pytest.raises(ValueError, match=r"got an array \[0, 5\]"):
        examples_intervals(np.zeros((0, 5)), np.zeros((0, 5)), levels=[0.95], rng=generator())
    with pytest.raises(ValueError, match="scores must be finite"):
        examples_intervals(np.full((1, 5), np.nan), np.zeros((1, 5)), levels=[0.95], rng=generator())


def test_an_aggregate_of_weight_one_is_the_mean():
    """A ratio whose denominators are all one is a mean, drawn another way."""
    arm, baseline = generator(1).normal(0.1, 1, (3, 800)), generator(2).normal(0, 1, (3, 800))
    [want] = examples_intervals(arm, baseline, levels=[0.95], rng=generator())
    weighed = (np.stack([scores, np.ones_like(scores)], axis=-1) for scores in (arm, baseline))
    [found] = examples_intervals(*weighed, levels=[0.95], aggregate=AGGREGATES["ratio"], rng=generator(9))
    error = (arm - baseline).mean(axis=0).std() / 800**0.5
    # Quantiles of 10,000 draws: 0.027 standard deviations each, two of them.
    assert found == pytest.approx(want, abs=0.15 * error)
    with pytest.raises(ValueError, match="percentage expects for every example 2"):
        examples_intervals(arm, baseline, levels=[0.95], aggregate=AGGREGATES["percentage"], rng=generator())


def test_what_is_no_array_of_seeds_and_examples_is_told_as_that():
    scores = np.ones((2, 5, 2))
    with pytest.raises(ValueError, match=r"expected scores \[seeds, examples\], .* got an array \[2, 5, 2\]"):
        examples_intervals(scores, scores, levels=[0.95], rng=np.random.default_rng(0))
