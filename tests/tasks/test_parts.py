"""Parts of a batch: a task's loss is the mean of its parts' losses, weighted by their terms, or it says why not."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.specs import find_task
from normscope.studies.spec import make_study
from normscope.tasks import TASKS
from normscope.tasks.batching import HasTerms, check_divisible, part_of_batch
from normscope.training.randomness import initialize

CPU = torch.device("cpu")
SEVERAL = ("digits", "sequential_mnist", "sst5", "ud_ewt", "novels_cloze", "multi30k_de_en", "novels_skip_thoughts")


@pytest.mark.parametrize("name", SEVERAL)
def test_loss_and_gradient_are_the_weighted_sums_of_those_of_the_parts(name: str, small_data: Path) -> None:
    task: Any = TASKS[name]
    model = task.network(NORMS["layer_norm"], PLACEMENTS[task.placements[0]], "small")
    initialize(model, 0)
    # Without dropout, and as exact as tasks allow, which compute losses in float32 at least.
    model = model.double().eval()
    data = task.load(CPU, "study", "small")
    order = data.order(task.presets["small"].batch_size, lambda number: torch.Generator().manual_seed(number))
    batch = data.batch(order.batch(0))
    batch = _to_double(batch)

    def measure(parts: int) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        total, terms = 0.0, [task.terms(part_of_batch(batch, at, parts)[0]) for at in range(parts)]
        for at in range(parts):
            loss = task.loss(model, part_of_batch(batch, at, parts)[0]) * (terms[at] / sum(terms))
            loss.backward()
            total += loss.item()
        return total, [one.grad.clone() for one in model.parameters() if one.grad is not None]

    whole, gradients = measure(1)
    assert task.terms(batch) == task.terms(part_of_batch(batch, 0, 1)[0])
    loss, got = measure(3)
    # Logits are rounded to float32 before the loss.
    assert loss == pytest.approx(whole, rel=1e-5)
    size = torch.cat([one.flatten() for one in gradients]).norm()
    assert torch.cat([(a - b).flatten() for a, b in zip(got, gradients, strict=True)]).norm() < 1e-5 * size


def _to_double(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.double() if batch.is_floating_point() else batch
    return type(batch)(_to_double(one) for one in batch) if isinstance(batch, tuple) else batch


@pytest.mark.parametrize("name", TASKS)
def test_a_task_can_be_divided_or_says_why_not(name: str) -> None:
    task: Any = find_task(name)
    assert isinstance(task, HasTerms) != bool(getattr(task, "undivided", ""))
    check_divisible(task, 1)
    if not isinstance(task, HasTerms):
        with pytest.raises(ValueError, match=rf"{name} cannot be trained on 2 devices per run: its "):
            make_study(name, devices_per_run=2)


@dataclasses.dataclass
class _Batch:
    x: torch.Tensor
    names: list[str]
    y: Any = None


def test_parts_are_consecutive_and_complete() -> None:
    x = torch.arange(14).reshape(7, 2)
    batch = {"x": x, "both": (x[:, 0], [x.numpy()]), "of": _Batch(x, ["a"]), "number": 3}
    parts = [part_of_batch(batch, at, 3) for at in range(3)]
    assert [size for _, size in parts] == [2, 2, 3]
    assert torch.cat([part["x"] for part, _ in parts]).equal(x)
    assert torch.cat([part["both"][0] for part, _ in parts]).equal(x[:, 0])
    np.testing.assert_array_equal(np.concatenate([part["both"][1][0] for part, _ in parts]), x.numpy())
    assert parts[1][0]["of"].x.equal(x[2:4])
    assert (parts[1][0]["of"].names, parts[1][0]["number"]) == (["a"], 3)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.zeros(4), torch.zeros(3)), "one B, got first axes of 3, 4"),
        ({"a": 1}, "got no tensor in dict"),
        (pack_sequence([torch.zeros(2)]), "packed sequence"),
    ],
)
def test_what_has_no_examples_is_refused(batch: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        part_of_batch(batch, 0, 2)
