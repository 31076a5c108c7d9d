"""The image tasks as the catalogue has them."""

from typing import Any

import numpy as np
import pytest
import torch

from normscope.norms import NORMS, BatchNorm, LayerNorm
from normscope.placement import PLACEMENTS
from normscope.specs import NormSpec
from normscope.tasks import TASKS
from normscope.tasks.images import CIFAR10, CIFAR10_PART, DIGITS, MNIST_CNN, MNIST_MLP, MNIST_MLP_BATCH4
from support import cifar_data, data_sets

ALL = [DIGITS, MNIST_MLP, MNIST_MLP_BATCH4, MNIST_CNN, CIFAR10, CIFAR10_PART]


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert list(task.presets) == ["small", "full"]
    assert set(task.placements) <= set(PLACEMENTS)
    for published in task.published:
        for text in published.rows:
            assert NormSpec.parse(text).build(8) is not None
    assert bool(task.published) is (task not in (DIGITS, CIFAR10, CIFAR10_PART))


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_networks_map_images_to_ten_logits(task: Any) -> None:
    x = torch.randn(3, *task.shape, generator=torch.Generator().manual_seed(0))
    for name in task.placements:
        model = task.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
        assert model(x).shape == (3, 10)
        norms = [module for module in model.modules() if isinstance(module, LayerNorm)]
        assert norms
        if task in (MNIST_MLP, MNIST_MLP_BATCH4):
            # Ba et al. (2016), 6.6: 784-1000-1000-10.
            assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [
                (1000, 784), (1000, 1000), (10, 1000)
            ]  # fmt: skip
            assert len(norms) == 2


def test_batch_sizes_are_those_of_the_figure() -> None:
    assert {recipe.batch_size for recipe in MNIST_MLP.presets.values()} == {128}
    assert {recipe.batch_size for recipe in MNIST_MLP_BATCH4.presets.values()} == {4}


def test_metrics_follow_what_the_sources_print() -> None:
    # Ba et al. plot errors, Xu et al. print accuracies.
    assert not MNIST_MLP.metric.higher_is_better
    assert MNIST_CNN.metric.higher_is_better
    (published,) = MNIST_CNN.published
    assert list(published.rows.values()) == [99.14, 99.13, 99.09, 99.10, 99.35]
    assert all(0 < value < 5 for each in (MNIST_MLP, MNIST_MLP_BATCH4) for value in each.published[0].rows.values())


@pytest.mark.usefixtures("small_data")
def test_mnist_is_read_from_its_four_files() -> None:
    data = MNIST_CNN.load(torch.device("cpu"), "study", "small")
    assert data.train_examples + len(data.valid.y) == data_sets.DIGITS["train"]
    assert data.test.x.shape == (data_sets.DIGITS["t10k"], 1, 28, 28)
    assert data.test.y.bincount(minlength=10).min() > 100
    assert np.isclose(data.train.x.mean().item(), 0, atol=1e-4)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", [CIFAR10, CIFAR10_PART], ids=lambda task: task.name)
def test_cifar_10_has_ten_classes_in_every_part(task: Any) -> None:
    data = task.load(torch.device("cpu"), "study", "small")
    tuning = task.load(torch.device("cpu"), "tune", "small")
    assert data.train.x.shape[1:] == (3, 32, 32)
    assert len(data.test.y) == 10 * cifar_data.TEST
    assert len(data.valid.y) == len(tuning.valid.y) == cifar_data.TRAIN
    assert tuning.train_examples + 2 * len(tuning.valid.y) == 10 * cifar_data.TRAIN
    for part in (data.train, data.valid, data.test, tuning.valid):
        assert part.y.bincount(minlength=10).min() > 0
    assert np.isclose(data.train.x.mean().item(), 0, atol=1e-4)
    assert np.isclose(data.train.x.std().item(), 1, atol=1e-3)


def test_layer_norm_is_over_all_units_of_a_layer_and_batch_norm_over_a_channel() -> None:
    """Ba et al. (2016), eq. (3): over the H hidden units of a layer, each with a gain and a bias of its own."""
    norms = CIFAR10.network(NORMS["layer_norm"], PLACEMENTS["preactivation"], "small").norms
    shapes = [tuple(norm.normalized_shape) for norm in norms if isinstance(norm, LayerNorm)]
    assert shapes == [(32, 32, 16), (16, 16, 32), (8, 8, 64), (4, 4, 64)]
    norms = CIFAR10.varied("per_position").network(NORMS["layer_norm"], PLACEMENTS["preactivation"], "small").norms
    assert [norm.normalized_shape for norm in norms] == [(16,), (32,), (64,), (64,)]
    norms = MNIST_CNN.varied("whole_layers").network(NORMS["layer_norm"], PLACEMENTS["preactivation"], "small").norms
    assert [norm.normalized_shape for norm in norms] == [(28, 28, 16), (14, 14, 32), (7, 7, 64)]
    norms = CIFAR10.network(NORMS["batch_norm"], PLACEMENTS["preactivation"], "small").norms
    assert [norm.normalized_shape for norm in norms if isinstance(norm, BatchNorm)] == [(16,), (32,), (64,), (64,)]
