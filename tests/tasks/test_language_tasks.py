"""The language model tasks as the catalogue has them."""

from typing import Any

import pytest
import torch

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec
from normscope.tasks import TASKS
from normscope.tasks.language import ENWIK8, ENWIKI_SMALL, TINY_SHAKESPEARE
from normscope.training.randomness import initialize

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")


@pytest.mark.parametrize("task", [ENWIK8, ENWIKI_SMALL, TINY_SHAKESPEARE], ids=lambda task: task.name)
def test_entries_say_what_the_sources_say(task: Any) -> None:
    assert TASKS[task.name] is task
    assert list(task.sizes) == list(task.presets) == ["small", "full"]
    assert set(task.placements) <= set(PLACEMENTS)
    # transformer-xl's run_enwik8_base.sh, and its test.
    full = task.sizes["full"]
    assert (full.layers, full.width, full.heads, full.feed_forward, full.dropout) == (12, 512, 8, 2048, 0.1)
    assert (full.segment, full.memory, full.test_segment, full.test_memory) == (512, 512, 80, 2100)
    recipe = task.presets["full"]
    assert (recipe.batch_size, recipe.learning_rate, recipe.clip, recipe.warmup) == (22 * 512, 2.5e-4, 0.25, 0)
    # A stand-in has nobody's figures.
    assert bool(task.published) is (task is ENWIK8)


def test_enwik8_has_the_papers_updates_and_figures() -> None:
    assert ENWIK8.presets["full"].steps == 400_000
    (published,) = ENWIK8.published
    assert {NormSpec.parse(text).name: value for text, value in published.rows.items()} == {
        "none": 1.04,
        "layer_norm": 1.07,
        "layer_norm_simple": 1.07,
        "detach_norm": 1.12,
        "ada_norm": 1.07,
    }
    assert not ENWIK8.metric.higher_is_better


@pytest.mark.parametrize("name", TINY_SHAKESPEARE.placements)
def test_the_network_trains_at_every_placement(name: str) -> None:
    data = TINY_SHAKESPEARE.load(CPU, "study", "small")
    model = TINY_SHAKESPEARE.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
    initialize(model, 0)
    order = data.order(TINY_SHAKESPEARE.presets["small"].batch_size, lambda number: torch.Generator())
    for step in range(2):
        symbols, first = data.batch(order.batch(step))
        loss = TINY_SHAKESPEARE.loss(model, (symbols, first))
        loss.backward()
    assert loss.isfinite()
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not unreached


@pytest.mark.parametrize("preset", ["small", "full"])
@pytest.mark.parametrize("task", [ENWIKI_SMALL, TINY_SHAKESPEARE], ids=lambda task: task.name)
def test_batches_fit_texts_of_the_published_sizes(task: Any, preset: str) -> None:
    data = task.load(CPU, "tune", preset)
    order = data.order(task.presets[preset].batch_size, lambda number: torch.Generator().manual_seed(number))
    symbols, first = data.batch(order.batch(0))
    assert first
    assert symbols[:, 1:].numel() == task.presets[preset].batch_size
