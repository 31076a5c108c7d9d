"""Each of seven planted faults is the only finding, and their healthy twins have no findings."""

import pytest

from normscope.diagnostics.diagnosis import diagnose
from support.planted import CASES, Case


def causes(case: Case) -> set[str]:
    told = diagnose(case.model, case.batch, case.loss, **case.settings)
    return {finding.name for finding in told.findings}


@pytest.mark.parametrize("cause", CASES)
def test_a_planted_fault_is_named(cause: str) -> None:
    assert causes(CASES[cause][0](0)) == {cause}


@pytest.mark.parametrize("cause", CASES)
def test_its_healthy_twin_is_not(cause: str) -> None:
    assert causes(CASES[cause][1](0)) == set()
