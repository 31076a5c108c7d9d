"""The parsing tasks as the catalogue has them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec, PlacementSpec
from normscope.tasks import TASKS
from normscope.tasks.parsing.task import PTB, PTB_WSJ_SAMPLE, UD_EWT


@pytest.mark.parametrize("task", [PTB, PTB_WSJ_SAMPLE, UD_EWT], ids=lambda task: task.name)
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


CPU = torch.device("cpu")


def texts(sentences: Any) -> list[tuple[str, ...]]:
    return [sentence.forms for sentence in sentences]


def test_the_sample_draws_whole_articles_and_learns_its_words_from_the_seeds_training_part(small_data: Path) -> None:
    drawn = [PTB_WSJ_SAMPLE.for_run(seed, "resampled") for seed in (0, 1, 0)]
    parts = [task.load(CPU, "resampled", "small") for task in drawn]
    assert texts(parts[0].test) == texts(parts[2].test) != texts(parts[1].test)
    assert torch.equal(parts[0].features, parts[2].features)
    assert not set(texts(parts[0].valid)) & set(texts(parts[0].test))
    norm, placement = lambda width: torch.nn.Identity(), PlacementSpec("preactivation").build()
    rows = [task.network(norm, placement, "small").words.num_embeddings for task in drawn]
    assert rows == [part.known.sizes[0] for part in parts]
    assert rows[0] == rows[2] != rows[1]
    trial = PTB_WSJ_SAMPLE.for_run(0, "resampled_tune").load(CPU, "resampled_tune", "small")
    assert (texts(trial.valid), trial.test) == (texts(parts[0].valid), ())
    tune = PTB_WSJ_SAMPLE.load(CPU, "tune", "small")
    assert tune.test == ()
    published = PTB_WSJ_SAMPLE.load(CPU, "study", "small")
    assert not {*texts(tune.valid)} & {*texts(published.valid), *texts(published.test)}
