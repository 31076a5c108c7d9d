"""What a user's own function returns: a model of theirs, how it is trained, and how it is judged."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.custom.sandbox import seed_others, theirs
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, Order

__tracebackhide__ = True

TrainCallback = Callable[[int, float], None]
"""Takes a step and its training loss; raises :class:`Stop` where the run is to end."""


class Stop(BaseException):
    """Leaves a user's training loop; no ``except Exception`` of theirs catches it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model with its data, made for one norm, one placement and one seed.

    Either ``loss`` and ``batches`` are given, and the training is ours: resumable, with the schedule, the probe and the
    checkpoints of every study; or ``train`` is, and it is the user's: from the beginning each time.

    Raises:
        TypeError: If a value is of another kind than is said below.
        ValueError: If not exactly one of the two ways is given, there are no batches, or ``margin`` is not positive and
            finite.
    """

    model: nn.Module
    """With its first weights: they are taken as they are, drawn under the run's seed."""
    metric: Metric
    """What is judged, in which unit and direction."""
    evaluate: Callable[[nn.Module, str], "np.ndarray | Sequence[float] | Tensor | float"]
    """From the model, in evaluation mode and without gradients, and ``"valid"`` or ``"test"`` to the score of every
    example, ``[E]``; a single number where there are none, which leaves the noise of the test set unknown."""
    margin: float
    """Smallest difference worth having, in the metric's unit."""
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    """From the model and a batch to the training loss, a scalar."""
    batches: Callable[[int], Any] | Sequence[Any] | None = None
    """From a step, counted from 0, to its batch; or all batches of a pass, visited in a new order in every pass."""
    train: Callable[..., None] | None = None
    """``train(model, callback)`` trains the model in place and calls ``callback(step, loss)`` now and then, so that the
    run can be watched and stopped. ``train(model, callback, recipe)`` is also given the run's :class:`Recipe`: the
    command line may then choose and tune its steps and its learning rate."""
    recipe: Recipe = field(default_factory=lambda: Recipe(steps=1000, batch_size=1, learning_rate=1e-3))
    """How ours trains; its batch size is what the report says, for the batches are the user's."""
    placements: tuple[str, ...] = ()
    """Placements that the function makes something of, its default first; none where it does not look at them."""
    regime: str = ""
    """What claims are limited to: network, data, optimizer, depth."""

    def __post_init__(self) -> None:
        kinds = {"model": nn.Module, "metric": Metric, "recipe": Recipe}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        for name in ("evaluate", "loss", "train"):
            if not callable(given := getattr(self, name)) and not (given is None and name != "evaluate"):
                raise TypeError(f"{name} must be a function, got {given!r}")
        if isinstance(self.placements, str):
            raise TypeError(f"placements must be a tuple of names, got the text {self.placements!r}")
        ours = (self.loss is not None, self.batches is not None)
        if (self.train is None and ours != (True, True)) or (self.train is not None and any(ours)):
            raise ValueError("a Trial takes either loss and batches, or train")
        _check_batches(self.batches)
        if not isinstance(self.margin, numbers.Real):
            raise TypeError(f"margin must be a number, got {self.margin!r}")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, got {self.margin!r}")
        if self.margin == math.inf:
            raise ValueError("margin must be finite, got inf: every difference would be too small to matter")
        if self.train is not None:
            _check_train(self.train)

    @property
    def heeds_recipe(self) -> bool:
        """Whether the recipe of a run changes how it is trained."""
        return self.train is None or _recipe_of(self.train) is not None

    def call_train(self, model: nn.Module, callback: TrainCallback, recipe: Recipe) -> Any:
        """Call ``train`` with what it takes, and give what it returns."""
        assert self.train is not None
        how = _recipe_of(self.train)
        return self.train(
            model, callback, *((recipe,) if how == "third" else ()), **({how: recipe} if how == "recipe" else {})
        )


def _recipe_of(train: Callable[..., Any]) -> Literal["recipe", "third"] | None:
    """Say how a training takes the recipe: by its name, or as the third that it is given; None where it does not.

    A third parameter of another name that has a default is a choice of the user's own.
    """
    parameters = inspect.signature(train).parameters
    if "recipe" in parameters and parameters["recipe"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return "recipe"
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    third = [one for one in parameters.values() if one.kind in places][2:3]
    many = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters.values())
    return "third" if any(one.default is one.empty for one in third) or (not third and many) else None


def _check_train(train: Callable[..., Any]) -> None:
    """Refuse a training that cannot be called.

    Raises:
        TypeError: If it takes neither a model and ``callback`` nor the recipe beside them.
    """
    how = _recipe_of(train)
    given: tuple[None, ...] = (None, None, None) if how == "third" else (None, None)
    try:
        inspect.signature(train).bind(*given, **({"recipe": None} if how == "recipe" else {}))
    except TypeError as error:
        raise TypeError(
            "train must take model and callback, or model, callback and recipe, got "
            f"train{inspect.signature(train)}: {error}"
        ) from None


def _check_batches(batches: Any) -> None:
    """Refuse batches that cannot be asked for by a number: a run that is resumed asks for those that are left.

    Raises:
        TypeError: If they are such.
        ValueError: If there are none.
    """
    if batches is None or callable(batches):
        return
    if not (hasattr(batches, "__getitem__") and hasattr(batches, "__len__")):
        raise TypeError(
            "batches must be a function from a step to its batch, or a sequence with a length, such as list(loader), "
            f"got {type(batches).__name__}"
        )
    if not len(batches):
        raise ValueError("batches must not be empty")


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Every step is its own batch."""

    def batch(self, step: int) -> Tensor:
        """Give the step, ``[1]``."""
        return torch.tensor([step])


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """The batches of a trial, as the training loop asks for them."""

    name: str
    """Of the user's file and function, for the words of an error."""
    batches: Callable[[int], Any] | Sequence[Any]
    """As the trial has them."""
    device: torch.device
    """Where a batch is put."""
    hashes: Mapping[str, str]
    """SHA-256 of the user's file and what it imports from beside it."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing that we know of is left out."""
        return {}

    @property
    def train_examples(self) -> int:
        """Batches of a pass; 1 where only their function knows."""
        return 1 if callable(self.batches) else len(self.batches)

    def order(self, batch_size: int, draw: Draw) -> Order:
        """One batch of theirs a step."""
        return _Steps() if callable(self.batches) else BatchOrder(len(self.batches), 1, draw)

    def batch(self, indices: Tensor) -> Any:
        """Give the batch of a step, its tensors on the device.

        What it draws from the global generators of torch, NumPy or Python, the step alone decides.

        Raises:
            UserCodeError: If the user's batches fail.
        """
        index = int(indices[0])
        seed_others()
        with theirs(self.name):
            return moved(self.batches(index) if callable(self.batches) else self.batches[index], self.device)


def moved(batch: Any, device: torch.device) -> Any:
    """Put the tensors of a batch on a device: in tuples, lists, dictionaries, and in what has ``to(device)``."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(entry, device) for entry in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(entry, device) for entry in batch)
    return {key: moved(value, device) for key, value in batch.items()} if type(batch) is dict else batch
