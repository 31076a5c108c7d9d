"""The translation tasks as the catalogue has them."""

import dataclasses
from typing import Any

import pytest
import torch

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec
from normscope.tasks import TASKS
from normscope.tasks.translation.settings import MULTI30K_DE_EN, RELEASED, WMT14_EN_DE
from normscope.tasks.translation.task import Translation
from normscope.training.randomness import initialize

CPU = torch.device("cpu")
ALL = [task for task in TASKS.values() if isinstance(task, Translation)]
STAND_INS = {"multi30k_de_en", "iwslt14_de_en_sample", "evbnews_en_vi", "wmt_en_de_10k"}
PAPER = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm")
"""Order of Tables 1 to 3 of Xu et al. (2019)."""


def test_the_catalogue_has_them_all() -> None:
    assert {task.name for task in ALL} == STAND_INS | {"iwslt14_de_en", "iwslt15_en_vi", "wmt14_en_de"}


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert list(task.sizes) == list(task.presets) == ["small", "full"]
    assert set(task.placements) <= set(PLACEMENTS)
    assert bool(task.published) is (task.name not in STAND_INS)
    for published in task.published:
        assert {NormSpec.parse(text).name for text in published.rows} <= set(NORMS)
    # Text that comes tokenized is not tokenized again; only raw text is.
    raw = {"multi30k", "iwslt14-de-en"}
    assert (task.tokenize == "13a") is (task.corpus in raw)
    assert task.metric.higher_is_better
    assert not task.valid_metric.higher_is_better


@pytest.mark.parametrize("task", [each for each in ALL if each is not WMT14_EN_DE], ids=lambda task: task.name)
def test_the_full_network_is_that_of_the_released_code(task: Any) -> None:
    # fairseq's transformer_iwslt_de_en with the script's dropout, joint subwords as fairseq prepares them.
    size = task.sizes["full"]
    assert size is RELEASED
    assert (size.layers, size.width, size.feed_forward, size.heads) == (6, 512, 1024, 4)
    assert (size.dropout, size.attention_dropout, size.activation_dropout) == (0.3, 0.1, 0.1)
    assert (size.vocabulary, size.window) == (10_000, None)


def test_the_full_recipe_is_that_of_the_released_code() -> None:
    for name in ("iwslt14_de_en", "iwslt15_en_vi"):
        recipe = TASKS[name].presets["full"]
        assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (30_000, 8192, 1.5e-3)
        assert (recipe.schedule, recipe.warmup, recipe.beta2) == ("inverse_sqrt", 8000, 0.98)
        assert (recipe.optimizer, recipe.weight_decay, recipe.clip) == ("adam", 1e-4, 0.0)


def test_the_network_of_wmt_is_the_base_model() -> None:
    size = WMT14_EN_DE.sizes["full"]
    assert (size.layers, size.width, size.heads, size.vocabulary) == (6, 512, 8, 37_000)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("iwslt14_de_en", (34.0, 35.5, 35.5, 33.9, 35.6)),
        ("iwslt15_en_vi", (28.4, 31.2, 31.6, 27.7, 31.4)),
        ("wmt14_en_de", (None, 28.3, 28.4, None, 28.5)),
    ],
)
def test_published_figures_are_the_papers(name: str, figures: tuple[float | None, ...]) -> None:
    (published,) = TASKS[name].published
    want = {norm: figure for norm, figure in zip(PAPER, figures, strict=True) if figure is not None}
    assert {NormSpec.parse(text).name: value for text, value in published.rows.items()} == want


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", MULTI30K_DE_EN.placements)
def test_the_network_trains_at_every_placement(name: str) -> None:
    size = dataclasses.replace(MULTI30K_DE_EN.sizes["small"], width=32, feed_forward=64)
    task = dataclasses.replace(MULTI30K_DE_EN, sizes={"small": size})
    data = task.load(CPU, "study", "small")
    model = task.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
    initialize(model, 0)
    loss = task.loss(model, data.batch(torch.arange(4)))
    loss.backward()
    assert loss.isfinite()
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not unreached


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=pytest.mark.real_data(*task.datasets), id=task.name)
        for task in ALL
        if task.name in STAND_INS
    ],
)
def test_the_published_text_fills_the_full_vocabulary(task: Any) -> None:
    data = task.load(CPU, "study", "full")
    assert data.vocabulary.size == 10_000
    # Twice the search's longest translation fits in the network.
    longest = max(len(data.vocabulary.encode(text)) for text in data.sources)
    assert longest * 3 // 2 + 10 < 1024
    assert data.valid.lengths.max() < 1024
    # A pair must fit in a batch.
    for recipe in task.presets.values():
        assert data.train.lengths.max() <= recipe.batch_size
