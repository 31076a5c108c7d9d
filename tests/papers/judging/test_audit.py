"""Errors of published figures against test sets that are counted out, and scipy's binomial test."""

import numpy as np
import pytest
from scipy.stats import binomtest

from normscope.papers.judging.audit import audit, audit_count, epsilon_of, least_paired_error, share_error
from normscope.papers.judging.cell import Epsilon
from normscope.papers.xu2019.study import XU2019
from normscope.results.statistics import sign_test
from support.digits_paper import difference

CELLS = {cell.id: cell for cell in XU2019.cells}
COUNTS = {count.id: count for count in XU2019.counts}


def right(count: int, of: int) -> np.ndarray:
    return 100.0 * (np.arange(of) < count)


def test_share_error_is_the_spread_of_a_mean_of_right_and_wrong() -> None:
    scores = right(823, 1066)
    assert share_error(scores.mean(), 1066) == pytest.approx(scores.std() / np.sqrt(1066), rel=1e-12)


def test_no_two_systems_on_one_test_set_can_differ_with_less_error() -> None:
    # 826 against 823 right of 1,066: nested answers dispute three examples, any other pair of systems more.
    differences = right(826, 1066) - right(823, 1066)
    least = least_paired_error(differences.mean(), 1066)
    assert least == pytest.approx(differences.std() / np.sqrt(1066), rel=1e-12)
    moved = right(826, 1066) - np.roll(right(823, 1066), 100)
    assert moved.mean() == pytest.approx(differences.mean())
    assert moved.std() / np.sqrt(1066) > least


@pytest.mark.parametrize(("wins", "of"), [(7, 8), (6, 8), (4, 8), (8, 8), (1, 8), (0, 3)])
def test_sign_test_is_the_binomial_test(wins: int, of: int) -> None:
    assert sign_test(wins, of) == pytest.approx(binomtest(wins, of).pvalue, rel=1e-12)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a share of 0 to 100 % .*, got 101 % of 10"):
        share_error(101, 10)
    with pytest.raises(ValueError, match=r"over at least one example, got 1 over 0"):
        least_paired_error(1, 0)
    with pytest.raises(ValueError, match=r"expected 0 to 2 wins .*, got 3 of 2"):
        sign_test(3, 2)


def test_the_gain_on_rt_is_three_sentences() -> None:
    found = audit(CELLS["rt/ada_norm-layer_norm"])
    assert found.examples == pytest.approx(0.0029 * 1066)
    assert found.error_independent == pytest.approx(np.hypot(1.2786, 1.2848), abs=1e-3)
    assert found.z is not None
    assert found.z[0] == pytest.approx(0.16, abs=0.005)
    assert "3.09 of 1,066 test examples" in found.words


def test_the_gain_on_mnist_is_twenty_two_digits() -> None:
    found = audit(CELLS["mnist_cnn/ada_norm-layer_norm"])
    assert found.examples == pytest.approx(22)
    # sqrt(22) but for rounding: 22 disputed digits, all won.
    assert found.z is not None
    assert found.z[1] == pytest.approx(22**0.5, rel=2e-3)
    assert 1.5 < found.z[0] < 2.0


def test_bleu_is_weighed_by_the_spread_over_seeds() -> None:
    found = audit(CELLS["iwslt14_de_en/ada_norm-layer_norm"])
    assert found.z == pytest.approx((0.1 / (2**0.5 * 0.23), 0.1 / (2**0.5 * 0.04)))
    assert "none is published for this set" not in found.words
    assert "none is published for this set" in audit(CELLS["iwslt15_en_vi/ada_norm-layer_norm"]).words


def test_a_count_comes_with_its_sign_test() -> None:
    found = audit_count(COUNTS["ada-better"])
    assert found.p == pytest.approx(18 / 256)
    assert "0.07; 0.016 where the tie is left out" in found.words
    assert "left out" not in audit_count(COUNTS["simple-no-worse"]).words


def test_epsilon_is_the_larger_of_margin_and_error_unless_the_cell_has_its_own() -> None:
    cell = difference(0.5, printed=(3.0, 2.5), examples=384)
    error = np.hypot(share_error(3.0, 384), share_error(2.5, 384))
    assert epsilon_of(cell, 0.5).value == pytest.approx(error)
    assert "standard error on 384" in epsilon_of(cell, 0.5).reason
    assert epsilon_of(cell, 5.0) == Epsilon(value=5.0, reason="our margin, the smallest difference worth having")
    assert epsilon_of(difference(0.5), 0.25).value == 0.25
    own = Epsilon(value=9.0, reason="read off")
    assert epsilon_of(difference(0.5, epsilon=own), 0.25) == own
