"""How often planned looks err: the simulation of benchmarks/looks.py with fewer studies, and the page it wrote."""

import importlib.util
import sys
from pathlib import Path

import pytest

from normscope.results.store import read_json

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "looks"

STUDIES = 400
"""Simulated ones for each figure."""


@pytest.fixture(scope="module")
def looks():
    spec = importlib.util.spec_from_file_location("simulated_looks", ROOT / "benchmarks" / "looks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.STUDIES, module.DRAWS = STUDIES, 2**11 - 1
    return module


def most(share):
    """Return the largest share that STUDIES with this probability show but once in a thousand."""
    return share + 3.1 * (share * (1 - share) / STUDIES) ** 0.5


NOISES = ["Gaussian", "counts of test errors", "exponential runs", "t runs, 3 degrees of freedom"]


@pytest.mark.parametrize("noise", NOISES)
def test_planned_looks_at_no_difference_seldom_claim_one(looks, noise):
    found = looks.simulate(looks.Cell(rule="the default", noise=noise))
    assert found["false_claim"] <= most(0.05)
    assert found["covered"] >= 1 - most(0.06)


def test_unplanned_looks_claim_a_difference_too_often(looks):
    # Not a property of ours: the simulation must be able to see an error rate that is too high.
    assert looks.simulate(looks.Cell(rule="unplanned looks"))["false_claim"] > most(0.05)


def test_six_arms_that_stop_at_looks_of_their_own_seldom_claim_a_difference(looks):
    assert looks.simulate(looks.Cell(rule="the default", effects=(0.0,) * 6))["false_claim"] <= most(0.05)
    mixed = looks.simulate(looks.Cell(rule="the default", effects=looks.MIXED))
    assert mixed["false_claim"] <= most(0.05)
    assert mixed["found"] > 0.9
    assert mixed["pairs"] < 27


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("effect", [0.5, -0.5])
def test_a_difference_as_large_as_the_margin_is_seldom_equivalent(looks, noise, effect):
    found = looks.simulate(looks.Cell(rule="the default", noise=noise, effects=(effect,), margin=0.5))
    assert found["false_equivalent"] <= most(0.05)
    assert found["covered"] >= 1 - most(0.06)


def test_skewed_differences_err_little_more(looks):
    found = looks.simulate(looks.Cell(rule="the default", noise="exponential differences", margin=0.5))
    assert found["false_claim"] <= most(0.05)
    assert found["covered"] >= 1 - most(0.06)


def test_differences_and_equivalences_are_found_with_fewer_pairs_than_the_maximum(looks):
    large = looks.simulate(looks.Cell(rule="the default", effects=(0.75,)))
    assert large["found"] >= 1 - most(0.05)
    assert large["pairs"] < 23
    none = looks.simulate(looks.Cell(rule="the default", margin=1.0))
    assert none["equivalent"] > 0.9
    assert none["pairs"] < 22


def test_the_page_is_written_from_the_committed_figures(looks):
    content = read_json(RESULTS / "looks.json")
    looks.STUDIES = 2000
    assert looks.page(content) == (RESULTS / "looks.md").read_text(encoding="utf-8")
    assert {looks.name_of(cell) for cell in looks.cells()} == set(content["cells"])
    looks.STUDIES = STUDIES
