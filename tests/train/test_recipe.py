"""Recipes: when a run looks at the validation set, and what is refused."""

import dataclasses
import math
from typing import Any

import pytest

from normscope.train import Recipe

RECIPE = Recipe(steps=60, batch_size=16, learning_rate=3e-3)


def test_looks_are_evenly_spaced_and_end_at_the_end() -> None:
    ten = Recipe(steps=10, batch_size=1, learning_rate=1.0)
    assert all(ten.evaluates_after(step) for step in range(1, 11))
    seven = Recipe(steps=100, batch_size=1, learning_rate=1.0, evaluations=7)
    looks = [step for step in range(1, 101) if seven.evaluates_after(step)]
    assert len(looks) == 7
    assert looks[-1] == 100
    assert sum(Recipe(steps=3, batch_size=1, learning_rate=1.0).evaluates_after(step) for step in (1, 2, 3)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"learning_rate": -1.0}, r"learning_rate must be positive and finite, got -1\.0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive and finite, got nan"),
        ({"precision": "float8"}, "precision must be one of float32, bfloat16, got 'float8'"),
        ({"device": "mps"}, "device must be cpu, or cuda with or without a number, got .mps."),
        ({"device": "gpu one"}, "device must be cpu, or cuda with or without a number, got .gpu one."),
    ],
)
def test_recipes_are_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(RECIPE, **change)
