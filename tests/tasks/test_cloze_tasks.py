"""The tasks of cloze questions: renamed identifiers, variants, scores, and a start of every preset."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data.readers.cloze import BLANK, FIRST_IDENTIFIER
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import TASKS
from normscope.tasks.cloze import CNN_CLOZE, NOVELS_CLOZE, STARTS, VARIANTS, RenamingOrder
from normscope.tasks.task import in_variant
from normscope.training.randomness import generator, initialize

CPU = torch.device("cpu")
PLAIN = PLACEMENTS["preactivation"]
BOTH = [NOVELS_CLOZE, CNN_CLOZE]

pytestmark = pytest.mark.usefixtures("small_data")


def draw(number: int) -> torch.Generator:
    return generator(3, "data", number)


def fields(batch: Any) -> list[Tensor]:
    return [batch.passages, batch.queries, batch.targets, *([] if batch.candidates is None else [batch.candidates])]


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert all(recipe.evaluations >= 20 for recipe in task.presets.values())
    full = task.presets["full"]
    assert (full.batch_size, full.learning_rate, task.sizes["full"].units) == (64, 8e-5, 240)


def test_every_batch_has_a_permutation_of_the_identifiers() -> None:
    order = RenamingOrder(50, 8, 5, draw)
    batches = [order.batch(step) for step in range(20)]
    assert all(sorted(batch[8:].tolist()) == list(range(5)) for batch in batches)
    assert len({tuple(batch[8:].tolist()) for batch in batches}) > 10
    assert torch.equal(batches[13], RenamingOrder(50, 8, 5, draw).batch(13))
    epoch = torch.cat([batch[:8] for batch in batches])
    assert sorted(epoch[:50].tolist()) == list(range(50))


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_renaming_changes_the_names_of_identifiers_and_nothing_else(task: Any) -> None:
    data = task.load(CPU, "study", "small")
    rows, unchanged = torch.arange(data.train_examples), torch.arange(data.identifiers)
    names = torch.randperm(data.identifiers, generator=draw(0))
    plain, renamed = (data.batch(torch.cat([rows, order])) for order in (unchanged, names))
    assert torch.equal(plain.passages, data.train.passages)
    last = FIRST_IDENTIFIER + data.identifiers
    for one, other in zip(fields(plain), fields(renamed), strict=True):
        if (one is plain.queries and task is CNN_CLOZE) or (one is plain.targets and task is NOVELS_CLOZE):
            # No identifier but the blank in the miniature's queries; a place among the candidates.
            assert torch.equal(one, other)
            continue
        named = (one >= FIRST_IDENTIFIER) & (one < last)
        assert named.any()
        assert torch.equal(one[~named], other[~named])
        assert torch.equal(names[one[named] - FIRST_IDENTIFIER], other[named] - FIRST_IDENTIFIER)
    if renamed.candidates is not None:
        assert torch.equal(renamed.candidates.sort(1)[0].diff().gt(0).all(), torch.tensor(True))


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_parts_and_scores(task: Any) -> None:
    data, tuning = (task.load(CPU, split, "small") for split in ("study", "tune"))
    assert len(tuning.test.targets) == 0
    assert tuning.train_examples + (0 if task is NOVELS_CLOZE else len(tuning.valid.targets)) <= data.train_examples
    model = task.network(NORMS["layer_norm"], PLAIN, "small").eval()
    initialize(model, 1)
    with torch.no_grad():
        loss, scores = task.evaluate(model, data, "test")
        questions = data.test
        logits = model(questions.passages, questions.queries, questions.candidates)
    right = [int(row.argmax()) == int(target) for row, target in zip(logits, questions.targets, strict=True)]
    assert scores.tolist() == [100.0 * one for one in right]
    assert scores.dtype == np.float32
    assert loss == pytest.approx(F.cross_entropy(logits, questions.targets).item(), rel=1e-4)
    assert ((questions.queries == BLANK).sum(1) == 1).all()


@pytest.mark.parametrize("norm", ["none", "layer_norm", "batch_norm"])
@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_questions_are_learned_with_every_arm(task: Any, norm: str) -> None:
    data, model = task.load(CPU, "study", "small"), task.network(NORMS[norm], PLAIN, "small")
    initialize(model, 0)
    optimizer, losses = task.presets["small"].make_optimizer(model), []
    for _ in range(8):
        loss = task.loss(model, data.batch(torch.cat([torch.arange(16), torch.arange(data.identifiers)])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_the_full_preset_starts(task: Any) -> None:
    # The paper's widths; the miniature's words.
    data, model = task.load(CPU, "study", "full"), task.network(NORMS["layer_norm"], PLAIN, "full")
    initialize(model, 0)
    assert (model.passage.hidden_size, model.join_read[0].out_features) == (240, 600)
    recipe = task.presets["full"]
    optimizer, order = recipe.make_optimizer(model), data.order(4, draw)
    before = model.attend.weight.detach().clone()
    for step in range(2):
        loss = task.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert not torch.equal(model.attend.weight, before)


def test_variants_change_what_they_say() -> None:
    assert set(STARTS) < set(VARIANTS) == set(NOVELS_CLOZE.variants)

    def network(variant: str | None, norm: str = "layer_norm") -> Any:
        task = in_variant(NOVELS_CLOZE, variant)
        model = task.network(NORMS[norm], PLAIN, "small")
        initialize(model, 0)
        return model

    assert network(None).passage.places.bias == "after"
    assert network("kiros").passage.places.bias == network("kiros").query.places.bias == "both"
    sizes = {name: network(name).passage.weight_hh_l0.detach().norm().item() for name in STARTS}
    # Four orthogonal matrices of 64 units.
    for name, scale in (("init_0.05", 0.05), ("init_0.3", 0.3), ("init_1", 1.0), ("reader_init", 0.05)):
        assert sizes[name] == pytest.approx(scale * 16, rel=1e-4)
    same, other = (network(name).passage.weight_hh_l0.chunk(4) for name in ("reader_init", "init_0.05"))
    assert torch.equal(same[0], same[3])
    assert not torch.equal(other[0], other[3])
    assert len(list(network("everywhere", "batch_norm").join_mean)) == 2
    assert type(network("everywhere", "batch_norm").join_mean[1]) is NORMS["batch_norm"]
    assert type(network(None, "batch_norm").join_mean[1]) is torch.nn.Identity
    clipped, recipes = in_variant(NOVELS_CLOZE, "clip_100").presets, NOVELS_CLOZE.presets
    assert {(recipe.clip, recipe.clip_rule) for recipe in clipped.values()} == {(10.0, "reader2016")}
    same = {"clip": 5.0, "clip_rule": "norm"}
    assert dataclasses.replace(clipped["small"], **same) == recipes["small"]
    assert clipped["full"] == recipes["full"]
