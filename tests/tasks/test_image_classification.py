"""Image classification: scaling, splits, loss and metric, by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from normscope.data import load_digits
from normscope.data.readers.images import SHEETS
from normscope.tasks import TASKS
from normscope.tasks.images import ImageClassification, Images, ImageSplits, residual_mlp

CPU = torch.device("cpu")
DIGITS = TASKS["digits"]
assert isinstance(DIGITS, ImageClassification)


class Table(nn.Module):
    """Gives prescribed logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(x)]


def splits(labels: list[int]) -> ImageSplits:
    images = Images(x=torch.zeros(len(labels), 4), y=torch.tensor(labels))
    return ImageSplits(train=images, valid=images, test=images, hashes={})


def test_metric_on_a_hand_computed_case() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 0.5]])
    loss, scores = DIGITS.evaluate(Table(logits), splits([0, 1, 1, 0]), "test")
    assert scores.tolist() == [0.0, 0.0, 100.0, 100.0]
    by_hand = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(3.0)), np.log1p(np.exp(0.5))]
    assert loss == pytest.approx(np.mean(by_hand), rel=1e-6)
    accurate = dataclasses.replace(DIGITS, accuracy=True)
    _, right = accurate.evaluate(Table(logits), splits([0, 1, 1, 0]), "test")
    assert right.tolist() == [100.0, 100.0, 0.0, 0.0]
    assert accurate.metric.higher_is_better
    assert not DIGITS.metric.higher_is_better


def test_pixels_are_scaled_by_the_training_set() -> None:
    raw = load_digits()
    data = DIGITS.load(CPU, "study", "small")
    mean, deviation = raw.train.x.mean(), raw.train.x.std()
    want = (raw.test.x.reshape(len(raw.test), -1) - mean) / deviation
    np.testing.assert_allclose(data.test.x.numpy(), want, rtol=0, atol=1e-6)
    assert data.train.x.mean().abs() < 1e-5
    assert data.train_examples == len(raw.train)


def test_tuning_has_a_split_of_its_own() -> None:
    study, tuning = DIGITS.load(CPU, "study", "small"), DIGITS.load(CPU, "tune", "small")
    assert len(tuning.test.y) == 0
    assert tuning.train_examples + len(tuning.valid.y) == study.train_examples
    seen = torch.cat([tuning.train.x, tuning.valid.x])
    assert {row.numpy().tobytes() for row in seen} == {row.numpy().tobytes() for row in study.train.x}
    # A whole sheet of writing, which has each class 9 to 14 times.
    assert len(tuning.valid.y) == SHEETS[8] - SHEETS[7]
    assert torch.equal(tuning.valid.y, study.train.y[SHEETS[7] :])
    counts = tuning.valid.y.bincount()
    assert (len(counts), int(counts.min()) >= 9, int(counts.max()) <= 14) == (10, True, True)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
        DIGITS.load(CPU, "test", "small")


def test_a_residual_network_needs_a_placement_with_blocks() -> None:
    from normscope.placement import PLACEMENTS

    with pytest.raises(ValueError, match=r"the placement .* is for networks without residual branches"):
        residual_mlp(inputs=4, width=4, depth=1, classes=2)(nn.LayerNorm, PLACEMENTS["preactivation"])
