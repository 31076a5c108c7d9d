"""How many seeds a claim needs, against published tables and by simulating the power."""

import numpy as np
import pytest
from scipy import stats

from normscope.results.statistics import LEAST_PAIRS, fewest_pairs, seeds_needed, sign_flip_p


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("alpha", "pairs"), [(0.05, 6), (0.05 / 8, 9), (0.0625, 6)])
def test_fewest_pairs_is_where_the_sign_flip_can_speak(alpha, pairs):
    assert fewest_pairs(alpha) == pairs
    assert sign_flip_p(np.ones(pairs), rng=generator()) < alpha <= sign_flip_p(np.ones(pairs - 1), rng=generator())


def test_a_lenient_alpha_makes_no_claim_of_fewer_than_six():
    assert fewest_pairs(0.5) == LEAST_PAIRS == 6


@pytest.mark.parametrize(("effect", "pairs", "strict"), [(1.5, 6, 10), (1.0, 10, 17), (0.8, 15, 24), (0.5, 34, 55)])
def test_seeds_needed_for_known_effects(effect, pairs, strict):
    # n for 80 % power of the paired t test, as G*Power gives it.
    assert seeds_needed(sd=2.0, effect=2 * effect, alpha=0.05) == pairs
    assert seeds_needed(sd=2.0, effect=-2 * effect, alpha=0.05 / 8) == strict


def test_seeds_needed_are_enough_and_not_more():
    rng = generator()
    pairs = seeds_needed(sd=1.0, effect=0.8, alpha=0.05)
    assert pairs is not None
    power = [
        np.mean(stats.ttest_1samp(rng.normal(0.8, 1, (20_000, n)), 0, axis=1).pvalue < 0.05) for n in (pairs - 1, pairs)
    ]
    # Three standard errors of a share of 20,000 near 0.8.
    assert power[0] < 0.8 + 0.009
    assert power[1] > 0.8 - 0.009


def test_seeds_needed_never_fall_below_the_sign_flip():
    assert seeds_needed(sd=0.0, effect=1.0, alpha=0.05) == 6
    assert seeds_needed(sd=1e-9, effect=1.0, alpha=0.05 / 8) == 9
    assert seeds_needed(sd=1.0, effect=1e12, alpha=0.05) == 6


def test_seeds_needed_stop_at_a_thousand():
    assert seeds_needed(sd=1.0, effect=0.09, alpha=0.05) == pytest.approx((2.8016 / 0.09) ** 2, abs=3)
    assert seeds_needed(sd=1.0, effect=0.08, alpha=0.05) is None
    assert seeds_needed(sd=1.0, effect=0.0, alpha=0.05) is None


@pytest.mark.parametrize("wrong", [{"sd": -1.0}, {"sd": float("nan")}, {"effect": float("inf")}])
def test_seeds_needed_refuse_what_is_no_spread(wrong):
    with pytest.raises(ValueError, match=r"expected sd >= 0, a finite effect"):
        seeds_needed(**{"sd": 1.0, "effect": 1.0, "alpha": 0.05, **wrong})


def test_an_alpha_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 0"):
        fewest_pairs(0.0)
