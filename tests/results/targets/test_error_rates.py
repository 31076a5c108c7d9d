"""Simulated studies without a difference: false claims and coverage with censored runs, at once and at looks.

./run bench targets has the tables; this is a small version of them.
"""

import numpy as np
import pytest

from normscope.results.look_plan import LookPlan
from normscope.results.targets.record import BASELINE
from normscope.results.targets.verdicts import claim, compare_curves
from support.curves import curve

STUDIES, ALPHA = 250, 0.2
QUICK = {"draws": 255, "levels": np.array([ALPHA * (1 - 1e-9)])}


def draw(rng, pairs):
    """Draw losses that reach 1 at times of the seed and of the run; of the slower half of the seeds never."""
    pace = np.exp(rng.normal(size=pairs) + 0.3 * rng.normal(size=pairs))
    floor = 0.05 * rng.normal(size=pairs)
    return {
        seed: curve(3 * np.exp(-pace[seed] * np.arange(1, 11) / 9) + floor[seed], seed=seed) for seed in range(pairs)
    }


@pytest.mark.parametrize("target", [1.0, BASELINE])
@pytest.mark.parametrize("looks", [(9,), (6, 9)])
def test_claims_are_false_as_seldom_as_alpha_says_and_intervals_cover(target, looks, rng):
    plan = LookPlan(looks) if len(looks) > 1 else None
    card, claims, missed, censored = {"alpha": ALPHA, "steps": 100}, 0, 0, 0
    for _ in range(STUDIES):
        arm, base = draw(rng, looks[-1]), draw(rng, looks[-1])
        found = [
            compare_curves(
                *(card, {s: arm[s] for s in range(pairs)}, {s: base[s] for s in range(pairs)}, target, plan),
                rng,
                **({} if plan is None else QUICK),
            )
            for pairs in looks
        ]
        claims += any(claim(each, each.p, alpha=ALPHA, margin=1.1) in ("better", "worse") for each in found)
        missed += any(low > 0 or high < 0 for low, high in (each.interval for each in found))
        censored += sum(run.step is None for run in found[-1].runs)
    assert 0.1 < censored / (STUDIES * looks[-1]) < 0.7
    # Two and a half standard errors.
    assert claims / STUDIES <= ALPHA + 2.5 * (ALPHA * (1 - ALPHA) / STUDIES) ** 0.5
    if target != BASELINE:
        assert missed / STUDIES <= ALPHA + 2.5 * (ALPHA * (1 - ALPHA) / STUDIES) ** 0.5
