"""The tasks of recurrent networks: pixels in sequence, and characters with the state carried on."""

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from normscope.data import load_mnist
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.studies.plan import plan
from normscope.studies.spec import make_study
from normscope.tasks import TASKS
from normscope.tasks.language import SegmentSize
from normscope.tasks.recurrent import (
    PERMUTED_MNIST,
    PERMUTED_MNIST_GRU,
    SEQUENTIAL_MNIST,
    SEQUENTIAL_MNIST_GRU,
    TINY_SHAKESPEARE_GRU,
    TINY_SHAKESPEARE_LSTM,
    permutation,
    pixel_sequences,
)
from normscope.training.randomness import initialize
from support import data_sets

CPU = torch.device("cpu")
PIXELS = [SEQUENTIAL_MNIST, SEQUENTIAL_MNIST_GRU, PERMUTED_MNIST, PERMUTED_MNIST_GRU]
TEXTS = [TINY_SHAKESPEARE_LSTM, TINY_SHAKESPEARE_GRU]
ARMS = ["none", "layer_norm", "layer_norm_simple", "rms_norm", "ada_norm", "detach_norm"]
PLAIN = PLACEMENTS["preactivation"]


@pytest.mark.parametrize("task", [*PIXELS, *TEXTS], ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert task.placements == ("preactivation",)
    assert all(recipe.clip == 1.0 for recipe in task.presets.values())
    assert ("a GRU" in task.regime or "layer GRU" in task.regime) is task.name.endswith("_gru")
    cell = "GRU" if task.name.endswith("_gru") else "LSTM"
    assert cell in type(task.network(NORMS["layer_norm"], PLAIN, "small").get_submodule(
        "layer" if task in PIXELS else "layers"
    )).__name__  # fmt: skip


def test_published_figures_are_those_of_the_table() -> None:
    rows = {task.name: task.published[0].rows for task in PIXELS if task.published}
    assert rows == {
        "sequential_mnist": {"none": 98.9, "batch_norm": 99.0},
        "permuted_mnist": {"none": 90.2, "batch_norm": 95.4},
    }
    assert SEQUENTIAL_MNIST.metric.higher_is_better


def test_the_permutation_never_changes() -> None:
    order = permutation(196)
    assert sorted(order) == list(range(196))
    keys = [hashlib.sha256(f"permuted_mnist\n{place}".encode()).hexdigest() for place in order]
    assert keys == sorted(keys)
    assert permutation(784)[:5].tolist() == [66, 290, 517, 538, 475]


@pytest.mark.usefixtures("small_data")
def test_images_are_pooled_and_read_in_order() -> None:
    images, whole = load_mnist(), pixel_sequences(28, permuted=False)
    assert np.array_equal(whole.valid.x, images.valid.x.reshape(-1, 784))
    pooled, moved = (pixel_sequences(14, permuted=permuted) for permuted in (False, True))
    squares = images.test.x[:50].reshape(50, 14, 2, 14, 2).transpose(0, 1, 3, 2, 4).reshape(50, 196, 4)
    means = np.floor(squares.mean(-1) + 0.5)
    assert (squares.mean(-1) % 1 == 0.5).any()
    assert np.array_equal(pooled.test.x[:50], means)
    assert pooled.test.x[7, 5 * 14 + 6] == math.floor(images.test.x[7, 10:12, 12:14].mean() + 0.5)
    assert pooled.test.x.max() > 200
    assert np.array_equal(moved.train.x, pooled.train.x[:, permutation(196)])
    assert np.array_equal(moved.train.y, images.train.y)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("preset", "length"), [("small", 196), ("full", 784)])
def test_presets_differ_in_the_length_of_the_sequences(preset: str, length: int) -> None:
    data = PERMUTED_MNIST.load(CPU, "study", preset)
    assert data.train.x.shape[1:] == (length, 1)
    assert abs(float(data.train.x.mean())) < 1e-4
    assert float(data.train.x.std()) == pytest.approx(1, abs=1e-4)
    assert len(data.test.y) == data_sets.DIGITS["t10k"]
    tuning = PERMUTED_MNIST.load(CPU, "tune", preset)
    assert len(tuning.test.y) == 0
    assert len(tuning.valid.y) + tuning.train_examples == data.train_examples


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("norm", ARMS)
@pytest.mark.parametrize("task", [SEQUENTIAL_MNIST, PERMUTED_MNIST_GRU], ids=lambda task: task.name)
def test_pixels_are_learned_with_every_arm(task: Any, norm: str) -> None:
    model, data = task.network(NORMS[norm], PLAIN, "small"), task.load(CPU, "study", "small")
    initialize(model, 0)
    optimizer = task.presets["small"].make_optimizer(model)
    losses = []
    for _ in range(8):
        loss = task.loss(model, data.batch(torch.arange(16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # The kernels compute every arm; the plain one is torch's.
    assert model.layer.computed_by == ("torch" if norm == "none" else "cpu")


def test_norms_over_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="a recurrent layer normalizes each row by itself"):
        SEQUENTIAL_MNIST.network(NORMS["group_norm"], PLAIN, "small")
    with pytest.raises(ValueError, match="a text whose state is carried on from segment to segment has no such steps"):
        TINY_SHAKESPEARE_LSTM.network(NORMS["batch_norm"], PLAIN, "small")


def test_batch_norm_has_moments_of_every_pixel() -> None:
    for preset, steps in (("small", 196), ("full", 784)):
        model = PERMUTED_MNIST.network(NORMS["batch_norm"], PLAIN, preset)
        moments = [buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")]
        assert [buffer.shape for buffer in moments] == [
            (steps, width) for width in ((256, 256, 64) if preset == "small" else (400, 400, 100))
        ]


LITTLE = SegmentSize(width=12, layers=1, segment=8, test_segment=32, test_memory=16)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", TEXTS, ids=lambda task: task.name)
def test_every_byte_is_scored_once_with_the_state_of_all_before_it(task: Any) -> None:
    task = dataclasses.replace(task, sizes={"small": LITTLE})
    data = task.load(CPU, "study", "small")
    model = task.network(NORMS["layer_norm"], PLAIN, "small").eval()
    initialize(model, 1)
    short = dataclasses.replace(data, test=data.test[:10_000])
    with torch.no_grad():
        nats, scores = task.evaluate(model, short, "test")
        # Two readers: each reads the 17 bytes before its share from a state of zero, then its share in one piece.
        by_hand = []
        text = np.concatenate([data.valid[-17:], short.test]).astype(np.int64)
        for begin in (0, 5000):
            part = torch.from_numpy(text[begin : begin + 5017])[None]
            logits, _ = model(part[:, :-1], model.empty_memory(1, 0))
            by_hand.append(F.cross_entropy(logits[0, 16:], part[0, 17:], reduction="none"))
    assert sum(map(len, by_hand)) == 10_000
    assert nats == pytest.approx(float(torch.cat(by_hand).double().mean()), rel=1e-5)
    assert AGGREGATES[task.metric.aggregate].value(scores) == pytest.approx(nats / math.log(2), rel=1e-5)
    assert scores[:, 1].sum() == 10_000


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("norm", ARMS)
@pytest.mark.parametrize("task", TEXTS, ids=lambda task: task.name)
def test_characters_are_learned_with_every_arm(task: Any, norm: str) -> None:
    narrow = dataclasses.replace(task.sizes["small"], width=32)
    task = dataclasses.replace(task, sizes={"small": narrow})
    model, data = task.network(NORMS[norm], PLAIN, "small"), task.load(CPU, "tune", "small")
    initialize(model, 0)
    recipe = task.presets["small"]
    optimizer, order = recipe.make_optimizer(model), data.order(recipe.batch_size, lambda _: torch.Generator())
    losses = []
    for step in range(10):
        symbols, first = data.batch(order.batch(step))
        assert first == (step == 0)
        assert symbols[:, 1:].numel() == recipe.batch_size
        loss = task.loss(model, (symbols, first))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(256), abs=0.3)
    assert losses[-1] < losses[0] - 0.3
    assert model.layers.computed_by == ("torch" if norm == "none" else "cpu")


def test_a_norm_for_one_layer_only_is_refused() -> None:
    study = make_study("tiny_shakespeare_lstm", norms=["layer_norm", "layer_norm+ada_norm:final"], seeds=2)
    with pytest.raises(ValueError, match="placed ada_norm:final nowhere in the network"):
        plan(study)[1].build()


@pytest.mark.parametrize(
    ("task", "identity"), [("mnist_cnn", "61780c64815c6c9e"), ("tiny_shakespeare", "d9f4a76f18c51eb3")]
)
def test_runs_of_the_families_they_extend_keep_their_names(task: str, identity: str) -> None:
    assert plan(make_study(task, norms=["layer_norm"], seeds=2))[0].id == identity
