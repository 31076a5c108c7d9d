"""Differences of a study with planned looks: the test and the interval of the last look that its pairs complete."""

from pathlib import Path

import numpy as np
import pytest

from normscope.papers.judging.differences import weigh
from normscope.papers.judging.verdicts import judge_broken
from normscope.results.look_plan import LookPlan
from normscope.results.matching import pair_values, read_arms
from normscope.results.sequential import repeated_interval, sequential_p
from normscope.results.statistics import sign_flip_p, t_interval
from normscope.results.store import StudyFolder
from support.digits_paper import difference, diverges


@pytest.mark.parametrize(("pairs", "reached"), [((3, 6, 8), 8), ((5, 7, 12), 7), ((6, 20), 6)])
def test_the_last_complete_look_is_read(trained: Path, pairs: tuple[int, ...], reached: int) -> None:
    study = StudyFolder(trained)
    card = study.read_card()
    none, normed = read_arms(study, card)
    card = {**card, "looks": {"pairs": list(pairs), "spending": "pocock"}, "seeds": list(range(pairs[-1]))}
    found = weigh(difference(1.0), "digits", none, normed, card, 2)
    plan, values = LookPlan(pairs, "pocock"), pair_values(none, normed)[:reached]
    assert found.difference == pytest.approx(float(np.mean(values)))
    assert found.seeds == pytest.approx(repeated_interval(values, plan, level=0.95)[-1])
    assert found.seeds_wide == pytest.approx(repeated_interval(values, plan, level=0.975)[-1])
    assert found.p == sequential_p(values, plan, rng=none.generator())[-1]
    # Seeds of later looks are not waited for: an arm that is decided has none.
    assert found.waiting == 0


def test_before_the_first_look_nothing_is_claimed(trained: Path) -> None:
    study = StudyFolder(trained)
    card = study.read_card()
    none, normed = read_arms(study, card)
    card = {**card, "looks": {"pairs": [10, 20], "spending": "pocock"}, "seeds": list(range(20))}
    found = weigh(difference(1.0), "digits", none, normed, card, 1)
    assert (found.p, found.waiting) == (None, 12)


def test_a_study_without_looks_is_tested_once(trained: Path) -> None:
    study = StudyFolder(trained)
    card = study.read_card()
    none, normed = read_arms(study, card)
    found = weigh(difference(1.0), "digits", none, normed, card, 1)
    values = pair_values(none, normed)
    assert found.p == sign_flip_p(values, rng=none.generator())
    assert found.seeds == pytest.approx(t_interval(values, level=0.95))


def test_runs_that_diverge_are_tested_at_the_share_of_a_look(exploded: Path) -> None:
    study = StudyFolder(exploded)
    card = study.read_card()
    none, normed = read_arms(study, card)
    once = weigh(difference(1.0), "digits", none, normed, card, 1)
    card = {**card, "looks": {"pairs": [6, 12], "spending": "pocock"}, "seeds": list(range(12))}
    twice = weigh(difference(1.0), "digits", none, normed, card, 1)
    assert once.broken == twice.broken == (0, 6)
    assert (once.p, twice.p) == (pytest.approx(2**-5), pytest.approx(2**-4))
    judged = judge_broken(diverges(), "digits", none, normed, card, full_steps=10)
    # Six of six are enough for one look at 5 %, and not for two.
    assert judged.verdict == "cannot tell: needs 7 seeds"
    card = {**card, "looks": None, "seeds": list(range(6))}
    assert judge_broken(diverges(), "digits", none, normed, card, full_steps=10).verdict == "reproduced"
