"""The parsing tasks as the catalogue has them."""

from typing import Any

import pytest

from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec
from normscope.tasks import TASKS
from normscope.tasks.parsing.task import PTB, UD_EWT


@pytest.mark.parametrize("task", [PTB, UD_EWT], ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert list(task.sizes) == list(task.presets) == ["small", "full"]
    assert set(task.placements) <= set(PLACEMENTS)
    assert task.presets["small"].steps < task.presets["full"].steps
    # A stand-in has nobody's figures.
    assert bool(task.published) is (task is PTB)


def test_ptb_has_the_papers_figures() -> None:
    (published,) = PTB.published
    assert {NormSpec.parse(text).name: value for text, value in published.rows.items()} == {
        "none": 88.31,
        "layer_norm": 89.12,
        "layer_norm_simple": 89.19,
        "detach_norm": 89.79,
        "ada_norm": 89.23,
    }
    assert "UAS" in PTB.metric.name
    assert "UAS" in published.note
