"""One forward pass of every arm before the first run: a norm that does not fit is an error, not a study of failures."""

import torch

from normscope.study.card import Card
from normscope.study.engine import EngineError
from normscope.study.plan import plan
from normscope.tasks import OwnCodeError, OwnTask


class ArmMisfit(ValueError):
    """An arm cannot be trained on the task."""


def preflight(card: Card) -> None:
    """Compute every arm's loss on the first batch of the training set; the caller's random numbers are untouched.

    Raises:
        EngineError: If the device has too little memory.
        OwnCodeError: If a user's own function fails.
        ArmMisfit: If an arm's network cannot be built or computed; the message has the arm, the task and the reason.
    """
    device = torch.device(card.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        for spec in plan(card, seeds=card.seeds[:1]):
            try:
                task = spec.begin()
                model = spec.build(task).to(device)
                if isinstance(task, OwnTask) and task.trial.loss is None:
                    continue
                data = task.load(device, "study", card.preset)
                order = data.order(spec.recipe.batch_size, lambda number: torch.Generator().manual_seed(number))
                task.loss(model, data.batch(order.batch(0)))
            except torch.OutOfMemoryError as error:
                raise EngineError(f"{card.device} has too little memory for arm {spec.label} on {card.task}") from error
            except OwnCodeError:
                raise
            except (TypeError, ValueError, RuntimeError) as error:
                raise ArmMisfit(f"arm {spec.label} cannot be trained on {card.task}: {error}") from error
