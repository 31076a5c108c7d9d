"""A task in a user's own file: ``my_file.py:make``, a function of a norm, a placement and a seed."""

import contextlib
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.custom.imports import OwnModules
from normscope.tasks.custom.loader import UserFile
from normscope.tasks.custom.sandbox import Surroundings, WatchedNorm, guarded, seed_others, theirs
from normscope.tasks.custom.trial import TrainCallback, Trial, TrialData
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published

__tracebackhide__ = True


class CustomTask:
    """A task that a user's function makes anew for every run.

    Args:
        file: The file and its function.
        norm: What the function is tried with, to learn its metric and recipe.
        placement: Likewise.

    Raises:
        LookupError: If there is no such file, or no such function in it; the message suggests the nearest name.
        UserCodeError: If the file or the function fails.
        TypeError: If the function does not take norm, placement and seed, or returns no :class:`Trial`.
    """

    def __init__(self, file: UserFile, *, norm: NormFactory, placement: PlacementLike) -> None:
        self.file, self.modules = file, OwnModules(file.path, file.texts())
        self.seed, self.split = 0, "study"
        self._load()
        self.trial = self._make(norm, placement)
        self.first = self.trial
        self.hashes, self.revision = file.version(self.modules)
        self.description = (inspect.getdoc(self.function) or "a task of your own").partition("\n")[0]

    def fresh(self, seed: int, split: str) -> "CustomTask":
        """Give the same task for another run; its trial is made by :meth:`network`.

        The file is executed anew, from the text that was read first: what a run leaves in it, no other finds.

        Raises:
            UserCodeError: If it fails.
        """
        other = object.__new__(CustomTask)
        other.__dict__ |= {**self.__dict__, "seed": seed, "split": split, "modules": self.modules.anew()}
        other._load()
        return other

    def check(self, recipe: Recipe, *, tune: bool) -> None:
        """Refuse what the user's function would not notice: an arm without effect is a mistake.

        Raises:
            ValueError: If a loop of theirs that takes no recipe is to follow another one than the trial's; if any loop
                of theirs is to be compiled or to compute in another precision by us; if learning rates are to be tuned
                and the function has no parameter ``split``: tuning must not touch what the study is judged by.
        """
        own = self.trial.recipe
        if self.trial.train is not None and (recipe.compile, recipe.precision) != (own.compile, own.precision):
            raise ValueError(f"{self.name} trains by itself: choose its precision and compile it in the file")
        if not self.trial.heeds_recipe and (tune or replace(recipe, device=own.device) != own):
            raise ValueError(
                f"{self.name} trains by itself, so steps, warm-up and learning rate can only be chosen here if its "
                "function takes them: train(model, callback, recipe)"
            )
        if tune and not self._takes_split:
            raise ValueError(
                f"{self.name} cannot be tuned: give the function a fourth parameter, split, and where it is 'tune' "
                "hold training data out for validation"
            )

    @property
    def name(self) -> str:
        """``my_file.py:make``, without the folder."""
        return self.file.name

    @property
    def datasets(self) -> tuple[str, ...]:
        """None of ours: the function reads what it needs."""
        return ()

    @property
    def placements(self) -> tuple[str, ...]:
        """What the function makes something of."""
        return self.trial.placements or ("preactivation",)

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        return self.trial.metric

    @property
    def valid_metric(self) -> Metric:
        """The same."""
        return self.trial.metric

    @property
    def margin(self) -> float:
        """Smallest difference worth having."""
        return self.trial.margin

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """One recipe, the trial's."""
        return {"small": self.trial.recipe, "full": self.trial.recipe}

    @property
    def batch_unit(self) -> str:
        """Theirs."""
        return "of their own batches" if self.trial.recipe.batch_size == 1 else "examples"

    @property
    def regime(self) -> str:
        """What claims are limited to."""
        return self.trial.regime or f"{self.name} and its data"

    @property
    def published(self) -> tuple[Published, ...]:
        """Nothing."""
        return ()

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """Give the user's code its modules and what they set for all, and put everything back at the end."""
        with guarded(), self.modules.present():
            replace(Surroundings.now(), **self.changes).set()
            yield

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Call the function, and keep what else it made.

        Raises:
            UserCodeError: If it fails.
            TypeError: If it returns no :class:`Trial`.
            ValueError: If what is one for all runs of a study is another one here.
        """
        self.trial = self._make(norm, placement)
        # What is tuned on may be another part of the data, of another size.
        shared = ("metric", "recipe", "margin") if self.split == "study" else ("metric", "recipe")
        for name, here, first in _other_values(shared, self.trial, self.first):
            raise ValueError(
                f"{self.name} gives {name}={here!r} here and {name}={first!r} for layer_norm and seed 0: a study has "
                "one for all its runs"
            )
        return self.trial.model

    def load(self, device: torch.device, split: str, preset: str) -> TrialData:
        """Give the batches of the trial."""
        # One that trains itself asks for none.
        batches = self.trial.batches if self.trial.batches is not None else (None,)
        return TrialData(name=self.name, batches=batches, device=device, hashes=self.hashes)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Compute their training loss.

        Raises:
            UserCodeError: If their function fails.
            TypeError: If it is no scalar tensor.
        """
        assert self.trial.loss is not None
        with theirs(self.name):
            loss = self.trial.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"loss must return a scalar tensor, got {_told(loss)}")
        if not loss.is_floating_point():
            raise TypeError(f"loss must return a scalar tensor of a floating type, got one of {loss.dtype}")
        return loss.reshape(())

    def evaluate(self, model: nn.Module, data: Any, part: str) -> tuple[float, np.ndarray]:
        """Give every example's score, and the mean of the first column, smaller is better, to part equal values by.

        Scores ``[E, 1]`` are taken as ``[E]``.

        What their function draws from the global generators, the run's seed decides.

        Raises:
            UserCodeError: If their function fails.
            TypeError: If it returned something else than numbers.
            ValueError: If it returned none.
        """
        with torch.random.fork_rng(devices=[]), theirs(self.name):
            self._seed()
            found = self.trial.evaluate(model, part)
        try:
            if found is None:
                # Which NumPy takes for a number that is none.
                raise TypeError("None is no number")
            given = found.detach().cpu() if isinstance(found, Tensor) else found
            if np.asarray(given).dtype.kind in "USc":
                raise TypeError("texts and complex numbers are no scores")
            scores = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"evaluate must return numbers, a score an example, got {_told(found)}") from error
        scores = scores.reshape(-1) if scores.ndim == 0 or (scores.ndim == 2 and scores.shape[1] == 1) else scores
        if not scores.size:
            raise ValueError(f"evaluate returned no score for the part {part!r}")
        mean = float(scores.reshape(len(scores), -1)[:, 0].mean(dtype=np.float64))
        return -mean if self.metric.higher_is_better else mean, scores

    def drive(self, model: nn.Module, callback: TrainCallback, recipe: Recipe) -> None:
        """Let the user's function train.

        Raises:
            UserCodeError: If it fails.
            ValueError: If it leaves all weights as they were, or returns another module: nothing of that is judged.
        """
        assert self.trial.train is not None
        before = digest(model)
        # The draws of torch's generator that came before were the first weights.
        seed_others()
        with theirs(self.name):
            made = self.trial.call_train(model, callback, recipe)
        if isinstance(made, nn.Module) and made is not model:
            raise ValueError(
                f"train of {self.name} returned another {type(made).__name__}, and the model that it was given is what "
                "is judged: train that one in place"
            )
        if before and digest(model) == before:
            raise ValueError(
                f"train of {self.name} left every weight of the model as it was: it must train the model that it is "
                "given, in place, no copy"
            )

    @property
    def _takes_split(self) -> bool:
        return "split" in inspect.signature(self.function).parameters

    def _load(self) -> None:
        with guarded(), self.modules.present():
            before = Surroundings.now()
            # What the file draws at its top, every process draws: data, more often than not.
            torch.manual_seed(0)
            seed_others()
            self.function = self.file.load(self.modules)
            self.changes = Surroundings.now().since(before)

    def _seed(self) -> None:
        torch.manual_seed(self.seed)
        seed_others()

    def _make(self, norm: NormFactory, placement: PlacementLike) -> Trial:
        given = {"split": self.split} if self._takes_split else {}
        with self.at_home(), theirs(self.name):
            self._seed()
            self.norm = WatchedNorm(norm)
            made = self.function(self.norm, placement, self.seed, **given)
        if not isinstance(made, Trial):
            raise TypeError(f"{self.name} must return a normscope.Trial, got {_told(made)}")
        return made


def _other_values(names: Iterable[str], one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """List what differs between the attributes of two objects, and of attributes that are dataclasses their own."""
    for name in names:
        here, there = getattr(one, name), getattr(other, name)
        if is_dataclass(here):
            inner = _other_values([field.name for field in fields(here)], here, there)
            yield from ((f"{name}.{deeper}", *values) for deeper, *values in inner)
        elif here != there:
            yield name, here, there


def _told(value: Any) -> str:
    shape = f" {list(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def digest(model: nn.Module) -> list[str]:
    """Give the SHA-256 of every parameter."""
    kept = (one.detach().reshape(-1).cpu().view(torch.uint8).numpy() for one in model.parameters() if one.numel())
    return [hashlib.sha256(array.data).hexdigest() for array in kept]
