"""The tasks of handwriting: what is read, normalized, scored and drawn."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from normscope.data import load_iam_ondb, load_strokes
from normscope.models import PenMixture
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.tasks import TASKS
from normscope.tasks.handwriting import CHARACTERS, IAM_ONDB, KANJI_STROKES, OMNIGLOT_STROKES, PenSize, encode
from normscope.training.randomness import initialize
from support import pen_data

CPU = torch.device("cpu")
PLAIN = PLACEMENTS["preactivation"]
ALL = [OMNIGLOT_STROKES, KANJI_STROKES, IAM_ONDB]
LITTLE = PenSize(width=8, longest=12, mixtures=2, windows=3)


def little(task: Any) -> Any:
    return dataclasses.replace(task, sizes={"small": LITTLE, "full": LITTLE})


def made(task: Any, norm: str = "layer_norm") -> Any:
    model = task.network(NORMS[norm], PLAIN, "small")
    initialize(model, 1)
    return model


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert task.placements == ("preactivation",)
    assert (task.metric.unit, task.metric.higher_is_better, task.metric.aggregate) == ("nats/point", False, "ratio")
    assert task.valid_metric.aggregate == "ratio"
    assert task.sizes["full"] == PenSize(width=400, longest=500, layers=3, mixtures=20, windows=10)
    assert task.presets["full"].batch_size == 8
    assert task.presets["full"].optimizer == "adam"
    assert all(recipe.evaluations >= 20 for recipe in task.presets.values())


@pytest.mark.usefixtures("small_data")
def test_offsets_are_normalized_and_whole_numbers_are_spread_once() -> None:
    for task, read in ((OMNIGLOT_STROKES, lambda: load_strokes("omniglot-strokes")), (IAM_ONDB, load_iam_ondb)):
        data, raw = task.load(CPU, "study", "small"), read()
        train = data.train.points[:, :2].double()
        torch.testing.assert_close(train.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(train.std(0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-6)
        for part in ("train", "valid", "test"):
            ours, theirs = getattr(data, part), getattr(raw, part)
            noise = ours.points[:, :2].double().numpy() * data.deviation + data.mean - theirs.points[:, :2]
            # Rounding of float32 after a multiplication with about 50.
            assert np.abs(noise).max() < (0.5 if task.spread else 0) + 1e-4
            assert bool(noise.std() > 0.25) is task.spread
            assert np.array_equal(ours.points[:, 2].numpy(), theirs.points[:, 2])
            assert np.diff(ours.ends).tolist() == theirs.lengths.tolist()
        assert torch.equal(task.load(CPU, "study", "full").test.points, data.test.points)
        assert data.counts == raw.left_out
        tune = task.load(CPU, "tune", "small")
        assert len(tune.test) == 0
        assert tune.train_examples == len(data.train) * 9 // 10
        assert len(tune.valid) + len(tune.train) == len(data.train)


def test_characters_are_57_kinds() -> None:
    assert len(set(CHARACTERS)) == 56
    assert encode("aZ 7.é").tolist() == [0, 51, 52, 56, 53, 56]


@pytest.mark.usefixtures("small_data")
def test_a_batch_is_shifted_by_a_point_of_zeros_and_cut() -> None:
    task = little(IAM_ONDB)
    data = task.load(CPU, "study", "small")
    points, targets, text = data.batch(torch.tensor([2, 0, 4]))
    assert text is not None
    assert points.batch_sizes.tolist() == [3] * 12
    for row, i in enumerate((2, 0, 4)):
        whole = data.train.points[data.train.ends[i] : data.train.ends[i] + 12]
        assert torch.equal(targets.view(12, 3, 3)[:, row], whole)
        assert torch.equal(points.data.view(12, 3, 3)[1:, row], whole[:-1])
        assert not points.data.view(12, 3, 3)[0, row].any()
        kinds = encode(pen_data.TEXTS[i % 3])
        assert torch.equal(text[row, : len(kinds)].argmax(-1), kinds)
        assert torch.equal(text[row].sum(-1), (torch.arange(text.shape[1]) < len(kinds)).float())
    # There is a place behind the longest text.
    assert text.shape == (3, 16, 57)
    assert data.valid.batch(range(3)).points.data.shape[0] == int(data.valid.ends[3])


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_scores_are_nats_and_points_of_each_drawing_by_itself(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = little(task)
    data, model = task.load(CPU, "study", "small"), made(task).eval()
    monkeypatch.setattr("normscope.tasks.handwriting.EVALUATION_BATCH", 4)
    with torch.no_grad():
        loss, scores = task.evaluate(model, data, "test")
        assert scores.shape == (len(data.test), 2)
        for i, (nats, count) in enumerate(scores[:6]):
            whole = data.test.points[data.test.ends[i] : data.test.ends[i + 1]]
            inputs = torch.cat([torch.zeros(1, 3), whole[:-1]])
            outputs, _ = model(pack_sequence([inputs]), data.test.text([i]) if task.conditioned else None)
            assert count == len(whole)
            wanted = -float(PenMixture.read(outputs).log_density(whole).double().sum())
            assert float(nats) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert AGGREGATES[task.metric.aggregate].value(scores) == pytest.approx(loss, rel=1e-5)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("norm", ["none", "layer_norm", "rms_norm"])
@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_points_are_learned_with_every_arm(task: Any, norm: str) -> None:
    task = little(task)
    model, data = made(task, norm), task.load(CPU, "tune", "small")
    recipe = dataclasses.replace(task.presets["small"], learning_rate=1e-2)
    optimizer = recipe.make_optimizer(model)
    losses = []
    for _ in range(8):
        loss = task.loss(model, data.batch(torch.arange(6)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # A standard normal has 2.8 nats, and a pen of even odds 0.7.
    assert losses[0] == pytest.approx(math.log(2 * math.pi) + 1 + math.log(2), abs=0.7)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.usefixtures("small_data")
def test_derivatives_of_the_outputs_are_clipped_per_point() -> None:
    task = dataclasses.replace(little(OMNIGLOT_STROKES), output_clip=0.05)
    data, found = task.load(CPU, "study", "small"), []
    for clipped in (task, OMNIGLOT_STROKES):
        model = made(task)
        model.outputs.register_full_backward_hook(lambda *args: found.append(args[2][0]))
        batch = data.batch(torch.arange(9))
        clipped.loss(model, batch).backward()
    ours, free = (gradient * len(batch.targets) for gradient in found)
    assert free.abs().max() > 0.2
    torch.testing.assert_close(ours, free.clamp(-0.05, 0.05), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_the_papers_setting_is_started(task: Any) -> None:
    model, data, recipe = task.network(NORMS["layer_norm"], PLAIN, "full"), task.load(CPU, "study", "full"), None
    initialize(model, 2)
    recipe = task.presets["full"]
    optimizer, order = recipe.make_optimizer(model), data.order(recipe.batch_size, lambda _: torch.Generator())
    for step in range(2):
        loss = task.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_pictures_are_drawings_of_the_test_set_and_of_the_network(task: Any) -> None:
    task = little(task)
    data, model = task.load(CPU, "study", "small"), made(task).eval()
    real, drawn = task.pictures(model, data, torch.Generator().manual_seed(3))
    (again,) = task.pictures(model, data, torch.Generator().manual_seed(3))[1:]
    assert np.array_equal(drawn.array, again.array, equal_nan=True)
    assert real.array.shape == drawn.array.shape
    assert not real.array[:, 0].any()
    assert not drawn.array[:, 0].any()
    lengths, shown = ((~np.isnan(one.array[:, 1:, 0])).sum(1) for one in (real, drawn))
    assert lengths.tolist() == np.diff(data.test.ends)[:12].tolist()
    assert (shown == lengths).all() if not task.conditioned else (shown <= lengths).all()
    raw = {"iam_ondb": load_iam_ondb}.get(task.name, lambda: load_strokes(task.datasets[0]))().test
    assert np.abs(real.array[0, 1 : 1 + lengths[0]] - next(iter(raw))).max() < 0.51
    only_valid = task.pictures(model, task.load(CPU, "tune", "small"), torch.Generator())
    assert len(only_valid) == 2


def test_variants_are_places_of_norms() -> None:
    varied = OMNIGLOT_STROKES.varied("kiros")
    assert varied.name == OMNIGLOT_STROKES.name
    assert made(varied).layers[2].places.bias == "both"
    assert made(OMNIGLOT_STROKES).layers[2].places.bias == "after"
    assert made(OMNIGLOT_STROKES.varied("per_gate")).layers[0].places.groups == "gates"
    assert list(OMNIGLOT_STROKES.variants) == ["kiros", "per_gate"]


def test_norms_that_see_other_points_are_refused() -> None:
    with pytest.raises(ValueError, match="batch norm has moments of every time step"):
        made(OMNIGLOT_STROKES, "batch_norm")
    with pytest.raises(ValueError, match="a recurrent layer normalizes each row by itself"):
        made(OMNIGLOT_STROKES, "group_norm")
