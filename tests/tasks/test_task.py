"""The interface of a task: what the catalogue offers keeps it."""

import dataclasses
import gc
import weakref
from importlib import import_module
from pkgutil import walk_packages
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from normscope import data as data_sets
from normscope import tasks
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.tasks import TASKS, BaseTask, ImageClassification, Part, Published, Recipe, Split, Task
from normscope.tasks.images import DIGITS
from normscope.tasks.task import DATA_SETS_KEPT
from support.made_norms import MIXES_POSITIONS

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["digits"])
def test_a_task_trains_and_scores(name: str) -> None:
    task = TASKS[name]
    data = task.load(torch.device("cpu"), "study", "small")
    model = task.network(NORMS["layer_norm"], PLACEMENTS[task.placements[0]], "small")
    loss = task.loss(model, data.batch(torch.arange(8)))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for part in ("valid", "test"):
        with torch.no_grad():
            mean, scores = task.evaluate(model.eval(), data, part)
        assert np.isfinite(mean)
        assert scores.dtype == np.float32
        assert set(np.unique(scores)) <= {0.0, 100.0}
    assert isinstance(model, nn.Module)
    assert all(len(digest) == 64 for digest in data.hashes.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_studies_rest_on(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Task)
    assert task.name == name
    assert list(task.presets) == ["small", "full"]
    assert all(isinstance(recipe, Recipe) for recipe in task.presets.values())
    assert task.presets["small"].steps <= task.presets["full"].steps
    assert task.datasets
    assert set(task.datasets) <= set(data_sets.SETS)
    assert task.placements
    assert set(task.placements) <= set(PLACEMENTS)
    for metric in (task.metric, task.valid_metric):
        assert metric.name
        assert metric.aggregate in AGGREGATES
    # It ends a sentence: "updates of 4,096 padded tokens".
    assert task.batch_unit.endswith("s")
    assert all(isinstance(figures, Published) for figures in task.published)
    assert task.margin > 0
    assert task.description
    assert task.regime


def test_the_defaults_of_a_task_are_those_of_a_task_that_the_package_trains() -> None:
    task = BaseTask(name="nothing", description="", margin=1.0, regime="")
    assert (task.location, task.brings_weights, task.deterministic, task.train) == ("", False, True, None)
    assert task.for_run(3, "tune") is task
    digits: Task = DIGITS
    assert digits.for_run(3, "tune") is DIGITS
    with task.context() as entered:
        assert entered is None
    with pytest.raises(NotImplementedError):
        _ = task.valid_metric
    task.check(Recipe(steps=1, batch_size=1, learning_rate=1.0, compile=True), tune=True)


def test_a_split_is_one_of_those_named() -> None:
    assert get_args(Split) == ("study", "tune", "resampled", "resampled_tune")
    sizes = {
        split: TASKS["digits"].for_run(1, split).load(CPU, split, "small").train_examples for split in get_args(Split)
    }
    assert sizes == {"study": 1029, "tune": 906, "resampled": 1028, "resampled_tune": 1028}
    for name in TASKS:
        with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
            TASKS[name].load(CPU, "test", "small")  # pyright: ignore[reportArgumentType]


def test_a_part_is_one_of_those_named() -> None:
    digits = TASKS["digits"]
    data, model = digits.load(CPU, "study", "small"), digits.network(NORMS["none"], PLACEMENTS["pre"], "small")
    with torch.no_grad():
        scores = {part: digits.evaluate(model, data, part)[1] for part in get_args(Part)}
    assert {part: len(values) for part, values in scores.items()} == {"valid": 258, "test": 510}


def test_every_cache_of_data_is_bounded() -> None:
    modules = [import_module(module.name) for module in walk_packages(tasks.__path__, "normscope.tasks.")]
    # Those of tasks/custom are of folders on the import path.
    holders = [module for module in modules if not module.__name__.startswith("normscope.tasks.custom")]
    caches = [value for module in holders for value in vars(module).values() if hasattr(value, "cache_parameters")]
    assert len(caches) >= 8
    assert [cache.cache_parameters()["maxsize"] for cache in caches] == [DATA_SETS_KEPT] * len(caches)


def test_a_data_set_that_is_no_longer_used_leaves_the_memory() -> None:
    digits = TASKS["digits"]
    assert isinstance(digits, ImageClassification)
    others = [dataclasses.replace(digits, read=lambda: data_sets.load_digits()) for _ in range(1 + DATA_SETS_KEPT)]
    kept = weakref.ref(others[0].load(CPU, "study", "small").train.x)
    assert others[0].load(CPU, "study", "small").train.x is kept()
    for other in others[1:]:
        other.load(CPU, "study", "small")
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("name", ["digits"])
def test_a_tasks_order_is_of_its_training_set(name: str) -> None:
    task = TASKS[name]
    data = task.load(torch.device("cpu"), "study", "small")
    size = task.presets["small"].batch_size
    order = data.order(size, lambda number: torch.Generator().manual_seed(number))
    steps = -(-data.train_examples // size)
    seen = torch.cat([order.batch(step) for step in range(steps)])
    assert set(seen.tolist()) == set(range(data.train_examples))
    again = data.order(size, lambda number: torch.Generator().manual_seed(number))
    assert torch.equal(again.batch(steps - 1), order.batch(steps - 1))


@pytest.mark.parametrize("name", ["tiny_shakespeare", "multi30k_de_en"])
@pytest.mark.parametrize("norm", ["frn", "group_norm", "instance_norm"])
def test_a_norm_that_sees_other_positions_is_refused_where_words_are_predicted(norm: str, name: str) -> None:
    task = TASKS[name]
    with pytest.raises(
        ValueError, match=f"{NORMS[norm].__name__} takes its statistics over all positions .* in {name} it would see"
    ):
        task.network(NORMS[norm], PLACEMENTS["pre"], "small")


@pytest.mark.parametrize("name", [name for name in NORMS if name not in {"batch_norm", *MIXES_POSITIONS}])
def test_every_other_norm_of_a_position_depends_on_that_position_alone(name: str) -> None:
    norm, x = NORMS[name](8).eval(), torch.randn(2, 5, 8)
    changed = x.clone()
    changed[:, 3] += 1
    assert torch.equal(norm(x)[:, :3], norm(changed)[:, :3])
    assert not getattr(norm, "mixes_positions", False)
