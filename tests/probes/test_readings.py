"""The readings say the numbers they are about, and say so when there are none."""

import pytest
from planted import CASES

from normscope.probes import diagnose
from normscope.probes.findings import Measured
from normscope.probes.readings import READINGS, read


def test_without_measurements_every_reading_says_so() -> None:
    told = read(Measured(gradients=[], stacks=[], doubles=[], ranges=[]))
    assert list(told) == list(READINGS)
    for words in told.values():
        assert words.startswith("No ")


@pytest.mark.parametrize("cause", CASES)
def test_readings_of_real_models_hold_their_numbers(cause: str) -> None:
    case = CASES[cause][0](0)
    told = diagnose(case.model, case.batch, case.loss, **case.told)
    assert f"{len(told.gradients)} norms" in told.readings["gradients"] or not told.gradients
    assert f"{len(told.stacks[-1].layers)} layers" in told.readings["depth"]
    assert all(len(words) > 60 and words.endswith(".") for words in told.readings.values())


def test_a_failed_slope_is_told() -> None:
    case = CASES["unscaled_residual"][0](0)
    told = diagnose(case.model, case.batch, case.loss)
    assert "(fail, at most 4)" in told.readings["depth"]


@pytest.mark.parametrize("place", [0, 1])
def test_there_is_no_verdict_on_warm_up(place: int) -> None:
    case = CASES["post_norm_without_warm_up"][place](0)
    told = diagnose(case.model, case.batch, case.loss, **case.told)
    assert "Whether warm-up is needed is not told" in told.readings["first_update"]
    assert ("which is named as a cause" in told.readings["first_update"]) == (place == 0)


def test_decay_of_norms_is_told() -> None:
    case = CASES["gains_near_zero"][0](0)
    told = diagnose(case.model, case.batch, case.loss, **case.told)
    assert "The optimizer decays the parameters of 9 of 9 norms" in told.readings["range"]
