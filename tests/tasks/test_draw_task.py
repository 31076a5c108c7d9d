"""The task of DRAW: data, training, evaluation whose noise belongs to the image, variants and pictures."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from normscope.models import DRAW
from normscope.models.draw import NO_START
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import TASKS, draw
from normscope.tasks.draw import DRAW_MNIST, BinaryImageSplits
from normscope.tasks.pictured import Pictured
from normscope.training.randomness import initialize
from support.data_sets import BINARY_DIGITS

CPU = torch.device("cpu")
PLAIN = PLACEMENTS["preactivation"]


def network(preset: str = "small", norm: str = "layer_norm", task: Any = DRAW_MNIST) -> DRAW:
    model = task.network(NORMS[norm], PLAIN, preset)
    initialize(model, 0)
    return model


def data(split: Any = "study", preset: str = "small") -> BinaryImageSplits:
    return DRAW_MNIST.load(CPU, split, preset)


def steps(model: DRAW, images: torch.Tensor, preset: str, count: int) -> list[float]:
    optimizer, losses = DRAW_MNIST.presets[preset].make_optimizer(model), []
    for _ in range(count):
        loss = DRAW_MNIST.loss(model, images)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), DRAW_MNIST.presets[preset].clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_entry_and_the_papers_setting() -> None:
    assert TASKS["draw_mnist"] is DRAW_MNIST
    assert isinstance(DRAW_MNIST, Pictured)
    assert not isinstance(TASKS["digits"], Pictured)
    size, recipe = DRAW_MNIST.sizes["full"], DRAW_MNIST.presets["full"]
    assert (size.glimpses, size.width, size.latent, size.read, size.write) == (64, 256, 100, 2, 5)
    assert size.start == NO_START
    assert (recipe.batch_size, recipe.learning_rate, recipe.schedule) == (128, 1e-3, "constant")
    assert recipe.steps * recipe.batch_size == 200 * 50_000
    assert DRAW_MNIST.published[0].rows == {"none": 82.36, "layer_norm": 82.09}
    assert not DRAW_MNIST.metric.higher_is_better


@pytest.mark.usefixtures("small_data")
def test_parts_and_those_of_tuning() -> None:
    found, tuning = data(), data("tune")
    assert [len(part) for part in (found.train, found.valid, found.test)] == list(BINARY_DIGITS.values())
    assert (len(tuning.train), len(tuning.valid), len(tuning.test)) == (2700, 300, 0)
    assert torch.equal(tuning.valid, found.train[9::10])
    some = dataclasses.replace(DRAW_MNIST, sizes={"small": dataclasses.replace(DRAW_MNIST.sizes["small"],
                                                                                valid_examples=100)})  # fmt: skip
    assert torch.equal(some.load(CPU, "study", "small").valid, found.valid[::3])
    batch = found.batch(torch.tensor([3, 1]))
    assert batch.dtype == torch.float32
    assert torch.equal(batch, found.train[[3, 1]].float())
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'resampled'"):
        data("resampled")


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("norm", ["none", "layer_norm", "rms_norm"])
def test_the_small_preset_learns(norm: str) -> None:
    torch.manual_seed(0)
    losses = steps(network(norm=norm), data().batch(torch.arange(0, 3000, 100)), "small", 12)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.usefixtures("small_data")
def test_the_full_preset_starts() -> None:
    model = network("full")
    assert model.offsets.any() == False  # noqa: E712
    losses = steps(model, data(preset="full").batch(torch.arange(4)), "full", 2)
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]


@pytest.mark.usefixtures("small_data")
def test_the_noise_of_a_score_belongs_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = network(), data()
    with torch.no_grad():
        loss, scores = DRAW_MNIST.evaluate(model, found, "test")
        monkeypatch.setattr(draw, "EVALUATION_BATCH", 7)
        torch.manual_seed(5)
        _, again = DRAW_MNIST.evaluate(model, found, "test")
        _, fewer = DRAW_MNIST.evaluate(model, dataclasses.replace(found, test=found.test[:50]), "test")
        _, valid = DRAW_MNIST.evaluate(model, dataclasses.replace(found, valid=found.test), "valid")
    assert scores.dtype == np.float32
    assert loss == pytest.approx(scores.mean())
    # Other batches change the order of sums only.
    np.testing.assert_allclose(again, scores, rtol=1e-5)
    np.testing.assert_allclose(fewer, scores[:50], rtol=1e-5)
    assert not np.allclose(valid, scores, rtol=1e-5)


@pytest.mark.usefixtures("small_data")
def test_a_training_loss_has_new_noise() -> None:
    model, images = network(), data().batch(torch.arange(3))
    torch.manual_seed(0)
    first, second = DRAW_MNIST.loss(model, images), DRAW_MNIST.loss(model, images)
    torch.manual_seed(0)
    assert DRAW_MNIST.loss(model, images) == first != second


def test_a_variant_without_starts() -> None:
    assert list(DRAW_MNIST.variants) == ["start_0"]
    varied = DRAW_MNIST.varied("start_0")
    assert varied.sizes["small"] == dataclasses.replace(DRAW_MNIST.sizes["small"], start=NO_START)
    assert not network(task=varied).canvas.any()
    assert network().canvas.unique().tolist() == [-3.0]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("split", ["study", "tune"])
def test_pictures_are_of_the_model_and_equal_for_equal_generators(split: str) -> None:
    model, found = network(), data(split)
    with torch.no_grad():
        seen, made, samples = DRAW_MNIST.pictures(model, found, torch.Generator().manual_seed(0))
        again = DRAW_MNIST.pictures(model, found, torch.Generator().manual_seed(0))
    source = found.test if split == "study" else found.valid
    assert seen.array.shape == (6, 6, 28, 28)
    np.testing.assert_array_equal(seen.array[-1, 0], source[-1] * 255)
    assert seen.boxes is not None
    assert np.isnan(seen.boxes[:, 0]).all()
    # The canvas begins nearly black, and every box has the width of four strides.
    assert seen.array[:, 1].mean() < 30
    assert made.array.shape == (6, 5, 28, 28)
    with torch.no_grad():
        numbers = model.windows(model.states[2]) + model.offsets
    x, y, stride = (float(numbers[place]) for place in (5, 6, 8))
    size = 27 * np.exp(stride)
    wanted = [14.5 * (x + 1) - 0.5 - size / 2, 14.5 * (y + 1) - 0.5 - size / 2, size, size]
    np.testing.assert_allclose(seen.boxes[2, 1, 0], wanted, rtol=1e-4)
    assert samples.array.shape == (4, 12, 28, 28)
    for one, other in zip((seen, made, samples), again, strict=True):
        np.testing.assert_array_equal(one.array, other.array)
