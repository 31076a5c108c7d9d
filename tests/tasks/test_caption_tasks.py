"""The tasks of captions and images: batches, ranks by hand and by sorting, pools, and learning with every arm."""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from normscope.data import load_coco_captions, load_multi30k_captions
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.tasks import TASKS, captions
from normscope.tasks.captions import (
    BATCH,
    COCO_ORDER,
    MULTI30K_ORDER,
    PER_IMAGE,
    CaptionOrder,
    EmbeddingSize,
    retrieval_scores,
)
from normscope.training.randomness import generator, initialize
from support.data_sets import CAPTIONED, FEATURES

CPU = torch.device("cpu")
PLAIN = PLACEMENTS["preactivation"]
ARMS = ["none", "layer_norm", "layer_norm_simple", "rms_norm", "ada_norm", "detach_norm"]
LITTLE = {"small": EmbeddingSize(width=24, word_width=16)}


def little(task: Any = MULTI30K_ORDER) -> Any:
    return dataclasses.replace(task, sizes=LITTLE)


def test_entries_are_whole() -> None:
    assert TASKS["multi30k_order"] is MULTI30K_ORDER
    assert TASKS["coco_order"] is COCO_ORDER
    for task in (MULTI30K_ORDER, COCO_ORDER):
        assert task.sizes["full"] == EmbeddingSize(width=1024, word_width=300)
        full = task.presets["full"]
        assert (full.batch_size, full.learning_rate, full.clip, full.schedule) == (128, 1e-3, 2.0, "constant")
        assert all(recipe.evaluations >= 20 for recipe in task.presets.values())
        assert (task.similarity, task.hinge, task.places) == ("order", 0.05, "paper")
        assert set(task.variants) == {"symmetric", "tensor_clip", "kiros"}
    # Every 300 updates of 100 epochs of 113,287 images.
    full = COCO_ORDER.presets["full"]
    assert full.steps == 100 * (113_287 // BATCH) == 300 * full.evaluations
    assert not MULTI30K_ORDER.published


def test_published_figures_are_the_means_of_the_recalls_of_the_table() -> None:
    table = {
        "none": (46.6, 79.3, 89.1, 37.8, 73.6, 85.7),
        "layer_norm": (48.5, 80.6, 89.8, 38.9, 74.3, 86.3),
    }
    assert COCO_ORDER.published[0].rows == {norm: round(sum(row) / 6, 1) for norm, row in table.items()}


def test_every_image_comes_once_in_an_epoch_with_one_of_its_captions() -> None:
    order = CaptionOrder(50, 8, lambda epoch: generator(3, "data", epoch))
    steps = [order.batch(step) for step in range(12)]
    assert order.per_epoch == 6
    for first in (0, 6):
        images = torch.cat(steps[first : first + 6]) // PER_IMAGE
        assert len(images.unique()) == 48
        assert images.max() < 50
    chosen = torch.cat(steps) % PER_IMAGE
    assert set(chosen.tolist()) == set(range(5))
    # Another epoch has another order and other captions; a batch by itself is the same one.
    first, second = (torch.cat(half).sort().values for half in (steps[:6], steps[6:]))
    assert len(np.intersect1d(first, second)) < 25
    assert not torch.equal(steps[0] // PER_IMAGE, steps[6] // PER_IMAGE)
    alone = CaptionOrder(50, 8, lambda epoch: generator(3, "data", epoch))
    assert torch.equal(alone.batch(7), steps[7])
    assert torch.equal(order.batch(2), steps[2])
    for wrong in (1, 51):
        with pytest.raises(ValueError, match=f"batch_size must be 2 to 50, the number of training images, got {wrong}"):
            CaptionOrder(50, wrong, lambda epoch: generator(0))


@pytest.mark.usefixtures("small_data")
def test_batches_are_captions_with_their_images() -> None:
    splits, data = load_multi30k_captions(), MULTI30K_ORDER.load(CPU, "study", "small")
    ids = captions._words(MULTI30K_ORDER.read, 2)
    counts = Counter(" ".join(splits.train.captions + splits.valid.captions).split())
    assert set(captions._words(MULTI30K_ORDER.read, 40)) == {word for word, count in counts.items() if count >= 40}
    assert list(ids.values()) == list(range(2, 2 + len(ids)))
    assert [counts[word] for word in ids] == sorted(counts.values(), reverse=True)[: len(ids)]
    numbers = torch.tensor([13, 1204, 0])
    words, lengths, features = data.batch(numbers)
    assert words.shape == (3, max(lengths))
    for row, length, number in zip(words, lengths, numbers.tolist(), strict=True):
        assert row[:length].tolist() == [*(ids.get(word, 1) for word in splits.train.captions[number].split()), 0]
    assert np.array_equal(features.numpy(), splits.train.features[[2, 240, 0]])
    assert data.train_examples == CAPTIONED["train"]
    assert data.hashes == splits.hashes
    assert data.counts == {}


@pytest.mark.usefixtures("small_data")
def test_tuning_sees_the_training_part_only() -> None:
    splits, data = load_coco_captions(), COCO_ORDER.load(CPU, "tune", "small")
    cut = FEATURES["train"] - FEATURES["train"] // 10
    assert np.array_equal(data.train.features, splits.train.features[:cut])
    assert np.array_equal(data.valid.features, splits.train.features[cut:])
    assert len(data.test.features) == 0
    ids = {number: word for word, number in captions._words(COCO_ORDER.read, 1).items()}
    words, lengths = data.valid.sentences(np.array([5 * 6 - 1]))
    assert [ids[word] for word in words[0, : lengths[0] - 1].tolist()] == splits.train.captions[-1].split()
    with pytest.raises(ValueError, match="split must be"):
        COCO_ORDER.load(CPU, "resampled", "small")
    # Every word of training and validation captions is known, as in the public code; a word of the test need not be.
    study = COCO_ORDER.load(CPU, "study", "small")
    assert all(int((part.words == 1).sum()) == 0 for part in (study.train, study.valid))


def by_sorting(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank as the public code does, by sorting; without ties that is the definition."""
    captions_of = np.array(
        [min(np.argsort(np.argsort(errors[:, i]))[PER_IMAGE * i : PER_IMAGE * i + 5]) for i in range(errors.shape[1])]
    )
    image_of = np.array([list(np.argsort(row)).index(c // PER_IMAGE) for c, row in enumerate(errors)])
    return 1 + captions_of, 1 + image_of.reshape(-1, PER_IMAGE)


def test_ranks_by_hand() -> None:
    errors = torch.full((15, 3), 0.5, dtype=torch.float64)
    # The captions of image 0 find it, but for one; the best of image 1's captions is behind two others.
    errors[0:4, 0] = 0.1
    errors[4] = torch.tensor([0.6, 0.5, 0.2])
    errors[5:10, 1] = torch.tensor([0.45, 0.9, 0.9, 0.9, 0.9])
    errors[0:2, 1] = 0.4
    errors[10:15, 2] = torch.tensor([0.3, 0.3, 0.3, 0.7, 0.3])
    found = retrieval_scores(errors)
    wanted = [
        [100, 100, 100, 1, *(80, 100, 100), (4 * 1 + 3) / 5],
        [0, 100, 100, 3, *(20, 100, 100), (1 + 4 * 3) / 5],
        # Caption 4 is nearer to image 2 than its own ones.
        [0, 100, 100, 2, *(80, 100, 100), (4 * 1 + 3) / 5],
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.dtype == np.float32
    recalls = [*(100 / 3, 100, 100), *(60, 100, 100)]
    assert AGGREGATES["retrieval"].value(found) == pytest.approx(np.mean(recalls))
    measures = MULTI30K_ORDER.measures(None, None, found)
    assert list(measures)[::4] == ["R@1 of captions", "R@1 of images"]
    assert [measures[name] for name in measures if name.startswith("R@")] == pytest.approx(recalls)
    assert measures["mean rank of captions"] == 2
    assert measures["mean rank of images"] == pytest.approx((1.4 + 2.6 + 1.4) / 3)


def test_ranks_are_those_of_a_sort() -> None:
    errors = torch.rand(5 * 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors[torch.arange(200), torch.arange(200) // 5] *= 0.4
    caption_ranks, image_ranks = by_sorting(errors.numpy())
    scores = retrieval_scores(errors)
    for number, k in enumerate((1, 5, 10)):
        np.testing.assert_allclose(scores[:, number], 100.0 * (caption_ranks <= k))
        np.testing.assert_allclose(scores[:, 4 + number], 100 * (image_ranks <= k).mean(1), rtol=1e-6)
    np.testing.assert_allclose(scores[:, 3], caption_ranks)
    np.testing.assert_allclose(scores[:, 7], image_ranks.mean(1), rtol=1e-6)
    assert 5 < scores[:, 7].mean() < scores[:, 3].mean() < 20


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_network_that_tells_nothing_apart_finds_nothing(value: float) -> None:
    scores = retrieval_scores(torch.full((60, 12), value))
    assert np.array_equal(scores, [[0, 0, 0, 56, 0, 0, 0, 12]] * 12)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("variant", [None, "symmetric"])
def test_evaluation_is_that_of_every_pair_alone(variant: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_SENTENCES_AT_ONCE", 32)
    task = little() if variant is None else little().varied(variant)
    data, model = task.load(CPU, "study", "small"), task.network(NORMS["layer_norm"], PLAIN, "small").eval()
    initialize(model, 2)
    with torch.no_grad():
        loss, scores = task.evaluate(model, data, "valid")
        one = [model.sentences(*data.valid.sentences(np.array([number])))[0] for number in range(200)]
        images = model.embedded(torch.from_numpy(data.valid.features))
        errors = np.array([[model.errors(s[None], i[None]).item() for i in images] for s in one[:15]])
        whole = model.errors(torch.stack(one), images)
    np.testing.assert_allclose(whole[:15], errors, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, retrieval_scores(whole), atol=0.6)
    pairs, margin = [], {None: 0.05, "symmetric": 0.2}[variant]
    e = whole.double().numpy()
    for k in range(5):
        for s in range(40):
            for i in set(range(40)) - {s}:
                pairs.append(max(0, margin - e[5 * s + k, i] + e[5 * s + k, s]))
                pairs[-1] += max(0, margin - e[5 * s + k, i] + e[5 * i + k, i])
    assert loss == pytest.approx(BATCH * (BATCH - 1) * np.mean(pairs), rel=1e-4)


@pytest.mark.usefixtures("small_data")
def test_a_large_part_is_searched_in_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    task = little(COCO_ORDER)
    data, model = task.load(CPU, "study", "small"), task.network(NORMS["none"], PLAIN, "small").eval()
    monkeypatch.setattr(captions, "POOL", 13)
    with torch.no_grad():
        # 40 images: 13, 13 and the rest.
        loss, scores = task.evaluate(model, data, "test")
        apart = []
        for start, end in ((0, 13), (13, 26), (26, 40)):
            part = dataclasses.replace(data, test=captions._part(data.test, start, end))
            monkeypatch.setattr(captions, "POOL", 100)
            apart.append(task.evaluate(model, part, "test"))
    np.testing.assert_allclose(scores, np.concatenate([scored for _, scored in apart]), atol=0.6)
    assert loss == pytest.approx(np.mean([value for value, _ in apart]), rel=1e-5)
    assert scores[:, 7].max() <= 14


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("norm", ARMS)
def test_captions_are_learned_with_every_arm(norm: str) -> None:
    task = little()
    model, data = task.network(NORMS[norm], PLAIN, "small"), task.load(CPU, "study", "small")
    initialize(model, 0)
    recipe = task.presets["small"]
    optimizer, order = recipe.make_optimizer(model), data.order(64, lambda epoch: generator(0, epoch))
    losses = []
    for step in range(12):
        loss = task.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.9 * losses[0]
    assert model.encoder.computed_by == ("torch" if norm == "none" else "cpu")


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", [MULTI30K_ORDER, COCO_ORDER], ids=lambda task: task.name)
def test_the_size_of_the_paper_is_started(task: Any) -> None:
    model, data = task.network(NORMS["layer_norm"], PLAIN, "full"), task.load(CPU, "study", "full")
    initialize(model, 0)
    assert model.encoder.weight_hh_l0.shape == (3072, 1024)
    optimizer, order = task.presets["full"].make_optimizer(model), data.order(32, lambda epoch: generator(0, epoch))
    for step in range(2):
        loss = task.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item())


@pytest.mark.usefixtures("small_data")
def test_variants_change_one_setting() -> None:
    assert MULTI30K_ORDER.varied("symmetric") == dataclasses.replace(MULTI30K_ORDER, similarity="cosine", hinge=0.2)
    clipped = COCO_ORDER.varied("tensor_clip")
    assert {(one.clip, one.clip_rule) for one in clipped.presets.values()} == {(2.0, "tensor")}
    assert dataclasses.replace(clipped, presets=COCO_ORDER.presets) == COCO_ORDER
    model = MULTI30K_ORDER.varied("kiros").network(NORMS["layer_norm"], PLAIN, "small")
    assert model.similarity == "order"
    assert model.encoder.places.bias == "before"


@pytest.mark.usefixtures("small_data")
def test_norms_over_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="a recurrent layer normalizes each row by itself"):
        MULTI30K_ORDER.network(NORMS["group_norm"], PLAIN, "small")
    with pytest.raises(ValueError, match="the last steps are those of a single sentence, as sentences differ in"):
        MULTI30K_ORDER.network(NORMS["batch_norm"], PLAIN, "small")
