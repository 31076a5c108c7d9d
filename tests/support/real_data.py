"""Real data for the tests of tasks: skip where they are not here, fail under CI."""

import os

import pytest

from normscope.data import SETS, state


def need(*names: str) -> None:
    """Skip the module, or the test that asks, where one of these data sets is missing."""
    for name in names:
        there = state(SETS[name])
        if not there.ready and not os.environ.get("CI"):
            pytest.skip(f"data set {name}: {there.words}; set NORMSCOPE_DATA", allow_module_level=True)
        assert there.ready, f"data set {name}: {there.words}; with CI set, its absence is a failure"
