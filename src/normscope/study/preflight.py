"""One forward pass of every arm before the first run: a norm that does not fit is an error, not a study of failures."""

from importlib.util import find_spec

import torch

from normscope.catalogue import TASKS
from normscope.study.card import Card
from normscope.study.engine import EngineError
from normscope.study.plan import plan


class ArmMisfit(ValueError):
    """An arm cannot be trained on the task."""


def preflight(card: Card) -> None:
    """Compute every arm's loss on the first batch of the training set; the caller's random numbers are untouched.

    Raises:
        EngineError: If the device has too little memory.
        ArmMisfit: If an arm's network cannot be built or computed; the message has the arm, the task and the reason.
    """
    task = TASKS[card.task]
    absent = [name for name in getattr(task, "packages", ()) if find_spec(name) is None]
    if absent:
        raise ArmMisfit(f"{card.task} needs {' and '.join(absent)}: `pip install normscope[text]` brings them")
    device = torch.device(card.device)
    data = task.load(device, "study", card.preset)
    order = data.order(card.recipe(card.arms[0]).batch_size, lambda number: torch.Generator().manual_seed(number))
    batch = data.batch(order.batch(0))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        for spec in plan(card, seeds=card.seeds[:1]):
            try:
                task.loss(spec.build().to(device), batch)
            except torch.OutOfMemoryError as error:
                raise EngineError(f"{card.device} has too little memory for arm {spec.label} on {card.task}") from error
            except (TypeError, ValueError, RuntimeError) as error:
                raise ArmMisfit(f"arm {spec.label} cannot be trained on {card.task}: {error}") from error
