"""One forward pass of every arm before the first run: a norm that does not fit is an error, not a study of failures."""

from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import torch

from normscope.catalogue import find_task
from normscope.data import DataDamaged, DataNotFound
from normscope.results.aggregates import AGGREGATES
from normscope.study.card import TUNING_SEEDS, Card
from normscope.study.engine import EngineError
from normscope.study.plan import RunSpec, plan
from normscope.tasks import OwnTask, Task


class ArmMisfit(ValueError):
    """An arm cannot be trained on the task."""


def preflight(card: Card) -> None:
    """Compute every arm's loss on the first batch of the training set; the caller's random numbers are untouched.

    What a user wrote to judge a model is tried, too, on the validation set: not only when all training is done.

    Raises:
        EngineError: If the device has too little memory.
        DataNotFound: If a user's function asks for a data set that is not here.
        DataDamaged: If one of its files is not the published one.
        ArmMisfit: If an arm's network cannot be built or computed; the message has the arm, the task and the reason.
    """
    absent = [name for name in getattr(find_task(card.task), "packages", ()) if find_spec(name) is None]
    if absent:
        raise ArmMisfit(f"{card.task} needs {' and '.join(absent)}: `pip install normscope[text]` brings them")
    device = torch.device(card.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        for spec in _tried(card):
            try:
                task = spec.begin()
                with task.at_home() if isinstance(task, OwnTask) else nullcontext():
                    _try(spec, task, device)
            except torch.OutOfMemoryError as error:
                raise EngineError(f"{card.device} has too little memory for arm {spec.label} on {spec.task}") from error
            except (DataNotFound, DataDamaged):
                raise
            except (TypeError, ValueError, RuntimeError) as error:
                raise ArmMisfit(f"arm {spec.label} cannot be trained on {spec.task}: {error}") from error


def _tried(card: Card) -> list[RunSpec]:
    """Give a run of every arm, and a trial where a user's function must make another one for tuning."""
    specs = plan(card, seeds=card.seeds[:1])
    if card.tune and specs[0].file:
        specs += plan(card, seeds=TUNING_SEEDS[:1], split="tune")[:1]
    return specs


def _try(spec: RunSpec, task: Task, device: torch.device) -> None:
    model = spec.build(task).to(device)
    data = task.load(device, spec.split, spec.preset)
    if not isinstance(task, OwnTask) or task.trial.train is None:
        order = data.order(spec.recipe.batch_size, lambda number: torch.Generator().manual_seed(number))
        task.loss(model, data.batch(order.batch(0)))
    if isinstance(task, OwnTask):
        _, scores = task.evaluate(model.eval(), data, "valid")
        # Not a number is a matter of the training that there has not been.
        AGGREGATES[task.metric.aggregate].value(np.nan_to_num(scores))
