"""The return value of a user's function: a model, its training and its evaluation."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.custom.sandbox import seed_numpy_and_python, user_code
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, Order, Part, TrainCallback

__tracebackhide__ = True


class Stop(BaseException):
    """Leaves a user's training loop. Not an ``Exception``, so that ``except Exception`` in the loop cannot catch it."""


_OWN = ("optimizer", "beta2", "weight_decay", "schedule", "warmup", "clip", "clip_rule", "average")
"""Settings of a recipe that a training function chooses itself unless it takes the recipe."""

_NOT_GIVEN = Recipe(steps=1000, batch_size=1, learning_rate=1e-3)
"""The recipe of a trial that gives none."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model with its data for a given norm, placement and seed.

    With ``loss`` and ``batches``, normscope trains the model: resumable, with schedule, probe and checkpoints. With
    ``train``, the user's function trains it, and an interrupted run starts over.

    Raises:
        TypeError: If a value has another type than documented below.
        ValueError: If both or neither of ``train`` and ``loss`` with ``batches`` are given, if ``batches`` is empty, or
            if ``margin`` is not positive and finite.

    Example:
        >>> import torch
        >>> from normscope import Metric, Trial
        >>> batches = [torch.ones(8, 4), torch.zeros(8, 4)]
        >>> trial = Trial(
        ...     model=torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 1)),
        ...     metric=Metric(name="squared error", unit="", higher_is_better=False),
        ...     loss=lambda model, x: (model(x) - 1).square().mean(),
        ...     batches=batches,
        ...     evaluate=lambda model, part: (model(batches[0]) - 1).square().flatten(),
        ...     margin=0.01,
        ... )
        >>> trial.uses_recipe, trial.recipe.steps
        (True, 1000)
    """

    model: nn.Module
    """The model with its initial weights, which are used as they are; torch is seeded with the run's seed."""
    metric: Metric
    """Name, unit and direction of the scores."""
    evaluate: Callable[[nn.Module, Part], "np.ndarray | Sequence[float] | Tensor | float"]
    """Function of the model, in evaluation mode and without gradients, and of ``"valid"`` or ``"test"``; returns the
    score of every example, ``[E]``, or a single number, which leaves the test set's sampling error unknown."""
    margin: float
    """Smallest relevant difference, in the metric's unit."""
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    """Function of the model and a batch; returns the training loss, a scalar."""
    batches: Callable[[int], Any] | Sequence[Any] | None = None
    """Function of the step, counted from 0, returning its batch; or all batches of an epoch, reshuffled per epoch."""
    terms: Callable[[Any], int] | None = None
    """Function of a batch; returns the number of terms of which its loss is the mean, such as examples or tokens.
    Needed for several devices per run, which cut the tensors of a batch along their first axis."""
    train: Callable[..., None] | None = None
    """``train(model, callback)`` trains the model in place and calls ``callback(step, loss)`` regularly, so that the
    run can be watched and stopped. ``train(model, callback, recipe)`` also takes the run's :class:`Recipe`: its steps
    and its learning rate can then be set and tuned from the command line. With a parameter ``group`` it can train on
    several devices per run: each process calls it with the process group of ``torch.distributed``, or None if there is
    one device, and the model of the first is evaluated."""
    recipe: Recipe = _NOT_GIVEN
    """Training settings; the batch size is only reported, since the batches are the user's. What is not given here and
    not followed by ``train`` either is unknown, and reported nowhere."""
    placements: tuple[str, ...] = ()
    """Placements the function supports, default first; empty if it ignores the argument."""
    regime: str = ""
    """Scope of the study's claims: network, data, optimizer, depth."""
    splits_by_seed: bool = False
    """Whether the seed decides which examples are for training, validation and test, equally for every norm."""

    def __post_init__(self) -> None:
        kinds = {"model": nn.Module, "metric": Metric, "recipe": Recipe}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        for name in ("evaluate", "loss", "terms", "train"):
            if not callable(given := getattr(self, name)) and not (given is None and name != "evaluate"):
                raise TypeError(f"{name} must be a function, got {given!r}")
        if isinstance(self.placements, str):
            raise TypeError(f"placements must be a tuple of names, got the string {self.placements!r}")
        given = (self.loss is not None, self.batches is not None)
        if (self.train is None and given != (True, True)) or (self.train is not None and any(given)):
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
    def uses_recipe(self) -> bool:
        """Whether the recipe of a run has an effect on the training."""
        return self.train is None or _recipe_of(self.train) is not None

    def unknown(self, recipe: Recipe) -> frozenset[str]:
        """Return the names of the settings that a run with a recipe neither follows nor was told."""
        given = self.recipe is not _NOT_GIVEN
        names = set() if given else {"batch_size"}
        if self.train is not None:
            # The model of a training function is evaluated once.
            names |= {"evaluations"}
            names |= set() if self.uses_recipe and given else {*_OWN}
            names |= set() if given else {"steps", "precision", "compile"}
            names |= set() if self.uses_recipe or given else {"learning_rate"}
        return frozenset(name for name in names if getattr(recipe, name) == getattr(self.recipe, name))

    def check_divisible(self, name: str) -> None:
        """Check that several devices can share the batches.

        Raises:
            ValueError: If they cannot; the message says what is missing.
        """
        if self.train is not None and not _takes_group(self.train):
            raise ValueError(
                f"{name} trains by itself: to train on several devices per run its function must take the process "
                "group, train(model, callback, recipe, group)"
            )
        if self.train is None and self.terms is None:
            raise ValueError(
                f"{name} does not say of how many terms the loss of a batch is the mean, which several devices per run "
                "need: Trial(terms=lambda batch: len(batch[0]))"
            )

    def call_train(self, model: nn.Module, callback: TrainCallback, recipe: Recipe, group: Any = None) -> Any:
        """Call ``train`` with the arguments it takes, and return its result."""
        assert self.train is not None
        how = _recipe_of(self.train)
        named = {"recipe": recipe} if how == "recipe" else {}
        named |= {"group": group} if _takes_group(self.train) else {}
        return self.train(model, callback, *((recipe,) if how == "third" else ()), **named)


def _takes_group(train: Callable[..., Any]) -> bool:
    parameter = inspect.signature(train).parameters.get("group")
    return parameter is not None and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY


def _recipe_of(train: Callable[..., Any]) -> Literal["recipe", "third"] | None:
    """Return how a training function takes the recipe: by name, as its third argument, or not at all (None).

    A third parameter of another name with a default value is a setting of the user's, not the recipe.
    """
    parameters = inspect.signature(train).parameters
    if "recipe" in parameters and parameters["recipe"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return "recipe"
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    third = [each for each in parameters.values() if each.kind in places and each.name != "group"][2:3]
    many = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values())
    return "third" if any(each.default is each.empty for each in third) or (not third and many) else None


def _check_train(train: Callable[..., Any]) -> None:
    """Check the signature of a training function.

    Raises:
        TypeError: If it cannot be called with a model and a callback, nor with these and a recipe.
    """
    how = _recipe_of(train)
    given: tuple[None, ...] = (None, None, None) if how == "third" else (None, None)
    named = {"recipe": how == "recipe", "group": _takes_group(train)}
    try:
        inspect.signature(train).bind(*given, **{name: None for name, taken in named.items() if taken})
    except TypeError as error:
        raise TypeError(
            "train must take model and callback, or model, callback and recipe, and may take group, got "
            f"train{inspect.signature(train)}: {error}"
        ) from None


def _check_batches(batches: Any) -> None:
    """Check that batches can be indexed, since a resumed run continues in the middle.

    Raises:
        TypeError: If they are neither a function nor a sequence with a length.
        ValueError: If they are empty.
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
    """The order of batches that a function returns: batch number = step."""

    def batch(self, step: int) -> Tensor:
        """Return the step, ``[1]``."""
        return torch.tensor([step])


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """The batches of a trial in the interface of the training loop."""

    name: str
    """Name of the file and the function, for error messages."""
    batches: Callable[[int], Any] | Sequence[Any]
    """The batches of the trial."""
    device: torch.device
    """Device to which batches are moved."""
    hashes: Mapping[str, str]
    """SHA-256 of the user's file and of the modules it imports."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: exclusions inside the user's data are unknown."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of batches per epoch; 1 if batches are a function."""
        return 1 if callable(self.batches) else len(self.batches)

    def order(self, batch_size: int, draw: Draw) -> Order:
        """Return the order of the batches, one per step."""
        return _Steps() if callable(self.batches) else BatchOrder(len(self.batches), 1, draw)

    def batch(self, indices: Tensor) -> Any:
        """Return the batch of a step, its tensors on the device.

        Draws from the global generators of torch, NumPy and Python depend on the step alone.

        Raises:
            UserCodeError: If the user's batches fail.
        """
        index = int(indices[0])
        seed_numpy_and_python()
        with user_code(self.name):
            return to_device(self.batches(index) if callable(self.batches) else self.batches[index], self.device)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch to a device: in tuples, lists, dictionaries and objects with ``to(device)``."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(entry, device) for entry in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(entry, device) for entry in batch)
    return {key: to_device(value, device) for key, value in batch.items()} if type(batch) is dict else batch
