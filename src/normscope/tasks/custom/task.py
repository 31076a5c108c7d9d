"""A custom task: ``my_file.py:make``, a user's function of a norm, a placement and a seed."""

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.custom.imports import UserModules
from normscope.tasks.custom.loader import UserFile
from normscope.tasks.custom.sandbox import (
    ProcessState,
    WatchedNorm,
    preserve_process_state,
    seed_numpy_and_python,
    user_code,
)
from normscope.tasks.custom.trial import Trial, TrialData
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import (
    TESTED,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Split,
    Splits,
    TrainCallback,
    TrainLoop,
)

__tracebackhide__ = True


class CustomTask:
    """A task defined by a user's function, which is called for every run.

    Args:
        file: The file and its function.
        norm: Norm factory for a first call, which yields the metric and the recipe.
        placement: Placement for the first call.

    Raises:
        LookupError: If the file or the function does not exist; the message suggests the nearest name.
        UserCodeError: If the file or the function fails.
        TypeError: If the function does not take norm, placement and seed, or does not return a :class:`Trial`.
    """

    def __init__(self, file: UserFile, *, norm: NormFactory, placement: PlacementLike) -> None:
        self.file, self.modules = file, UserModules(file.path, file.texts())
        self.seed: int = 0
        self.seeded_with: int = 0
        """The seed of torch's generator when the user's function had returned."""
        self.split: Split = "study"
        self._load()
        self.trial = self._make(norm, placement)
        self.first = self.trial
        self.hashes, self.revision = file.version(self.modules)
        self.description = (inspect.getdoc(self.function) or "a custom task").partition("\n")[0]

    datasets = ()
    published = ()
    variants: Mapping[str, str] = {}
    brings_weights = True
    deterministic = False

    def varied(self, variant: str) -> "CustomTask":
        """Return the task itself, which has no variants.

        Raises:
            LookupError: Always.
        """
        raise LookupError(f"{self.name} has no variants, got {variant!r}")

    def for_run(self, seed: int, split: Split) -> "CustomTask":
        """Return the same task for another run; its trial is made by :meth:`network`.

        The file is executed again from the text that was read first, so no run sees the module state of another.

        Raises:
            UserCodeError: If the file fails.
        """
        other = object.__new__(CustomTask)
        other.__dict__ |= {**self.__dict__, "seed": seed, "split": split, "modules": self.modules.anew()}
        other._load()
        return other

    def check(self, recipe: Recipe, *, tune: bool) -> None:
        """Check that the user's function follows a recipe; a setting without effect would be a mistake.

        Raises:
            ValueError: If a training function without the parameter ``recipe`` is given another recipe than the
                trial's; if the precision or the compilation of a training function is changed; if learning rates are to
                be tuned and the function has no parameter ``split``, so tuning would use the study's validation data;
                if several devices are to share the batches and the trial does not say how.
        """
        given = self.trial.recipe
        if recipe.devices_per_run > 1:
            self.trial.check_divisible(self.name)
        if self.trial.train is not None and (recipe.compile, recipe.precision) != (given.compile, given.precision):
            raise ValueError(f"{self.name} trains by itself: choose its precision and compile it in the file")
        if not self.trial.uses_recipe and (
            tune or replace(recipe, device=given.device, devices_per_run=given.devices_per_run) != given
        ):
            raise ValueError(self._follows_no_recipe)
        if tune and not self._takes_split:
            raise ValueError(
                f"{self.name} cannot be tuned: give the function a fourth parameter, split, and where it is 'tune' "
                "hold training data out for validation"
            )

    def check_given(self, steps: int | None, warmups: Sequence[int], optimizers: Sequence[str]) -> None:
        """Check that settings that were chosen for this study have an effect, even where they equal the trial's.

        Raises:
            ValueError: If a training function without the parameter ``recipe`` is given steps, a warm-up or an
                optimizer.
        """
        if not self.trial.uses_recipe and (steps is not None or warmups or optimizers):
            raise ValueError(self._follows_no_recipe)

    def unknown(self, recipe: Recipe) -> frozenset[str]:
        """Return the names of the settings that a run with a recipe neither follows nor was told."""
        return self.first.unknown(recipe)

    @property
    def _follows_no_recipe(self) -> str:
        return (
            f"{self.name} trains by itself, so steps, warm-up, optimizer and learning rate can only be chosen here if "
            "its function takes them: train(model, callback, recipe)"
        )

    @property
    def name(self) -> str:
        """``my_file.py:make``, without the folder."""
        return self.file.name

    @property
    def placements(self) -> tuple[str, ...]:
        """Placements the function supports."""
        return self.trial.placements or ("preactivation",)

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return self.trial.metric

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation data: the same."""
        return self.trial.metric

    @property
    def margin(self) -> float:
        """Smallest relevant difference, in the metric's unit."""
        return self.trial.margin

    @property
    def presets(self) -> Mapping[str, Recipe]:
        """The recipe of the trial under both names."""
        return {"small": self.trial.recipe, "full": self.trial.recipe}

    @property
    def batch_unit(self) -> str:
        """Unit of the batch size."""
        return "user-defined batches" if self.trial.recipe.batch_size == 1 else "examples"

    @property
    def regime(self) -> str:
        """Scope of the study's claims."""
        return self.trial.regime or f"{self.name} and its data"

    @property
    def splits(self) -> Mapping[Splits, str]:
        """What a claim generalizes over, by the only rule: the function splits the data itself."""
        if self.trial.splits_by_seed:
            return {"resampled": "over seeds and the splits that they draw"}
        return {"published": "over seeds, and over test examples"}

    @property
    def location(self) -> str:
        """``path/my_file.py:make``."""
        return f"{self.file.path}:{self.file.function}"

    @property
    def train(self) -> TrainLoop | None:
        """The user's training loop with checks around it, or None if the trial has a loss and batches."""
        return None if self.trial.train is None else self._train

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Install the modules and process-wide settings of the user's file, and restore everything on exit.

        The arguments of the process are those of the file run as a script without arguments.
        """
        with preserve_process_state(), self.modules.present():
            sys.argv = [str(self.file.path)]
            now = ProcessState.now()
            new = tuple(each for each in self.warning_filters if each not in now.warning_filters)
            replace(now, **{"warning_filters": (*new, *now.warning_filters), **self.changes}).set()
            yield

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Call the user's function, keep its trial and return the model with its initial weights.

        Raises:
            UserCodeError: If the function fails.
            TypeError: If it does not return a :class:`Trial`.
            ValueError: If the metric, the recipe, the margin or ``splits_by_seed`` differs from that of the first call.
        """
        self.trial = self._make(norm, placement)
        # The tuning split may have another size, and so another margin.
        shared = ("metric", "recipe", "splits_by_seed", *(("margin",) if self.split in TESTED else ()))
        for name, here, first in _differences(shared, self.trial, self.first):
            raise ValueError(
                f"{self.name} gives {name}={here!r} here and {name}={first!r} for layer_norm and seed 0: it must be "
                "equal in all runs of a study"
            )
        return self.trial.model

    def load(self, device: torch.device, split: Split, preset: str) -> TrialData:
        """Return the batches of the trial."""
        # A training function of the user draws its batches itself.
        batches = self.trial.batches if self.trial.batches is not None else (None,)
        return TrialData(name=self.name, batches=batches, device=device, hashes=self.hashes)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Call the user's loss function.

        Raises:
            UserCodeError: If the function fails.
            TypeError: If it does not return a floating-point scalar tensor.
        """
        assert self.trial.loss is not None
        with user_code(self.name):
            loss = self.trial.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"loss must return a scalar tensor, got {_describe(loss)}")
        if not loss.is_floating_point():
            raise TypeError(f"loss must return a scalar tensor of a floating-point dtype, got {loss.dtype}")
        return loss.reshape(())

    def terms(self, batch: Any) -> int:
        """Call the user's number of terms of a batch.

        Raises:
            UserCodeError: If the function fails.
        """
        assert self.trial.terms is not None
        with user_code(self.name):
            return int(self.trial.terms(batch))

    def evaluate(self, model: nn.Module, data: Any, part: Part) -> tuple[float, np.ndarray]:
        """Return per-example scores and the mean of the first column (lower is better), used to break ties.

        Scores ``[E, 1]`` are flattened to ``[E]``. The global random generators are seeded with the run's seed.

        Raises:
            UserCodeError: If the user's function fails.
            TypeError: If it does not return numbers.
            ValueError: If it returns an empty list of scores.
        """
        with torch.random.fork_rng(devices=[]), user_code(self.name):
            self._seed()
            found = self.trial.evaluate(model, part)
        try:
            if found is None:
                # NumPy would convert it to NaN silently.
                raise TypeError("None is not a number")
            given = found.detach().cpu() if isinstance(found, Tensor) else found
            if np.asarray(given).dtype.kind in "USc":
                raise TypeError("strings and complex numbers cannot be scores")
            scores = np.asarray(given, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"evaluate must return numbers, one score per example, got {_describe(found)}") from error
        scores = scores.reshape(-1) if scores.ndim == 0 or (scores.ndim == 2 and scores.shape[1] == 1) else scores
        if not scores.size:
            raise ValueError(f"evaluate returned no scores for the part {part!r}")
        mean = float(scores.reshape(len(scores), -1)[:, 0].mean(dtype=np.float64))
        return -mean if self.metric.higher_is_better else mean, scores

    def _train(self, model: nn.Module, callback: TrainCallback, recipe: Recipe, group: Any = None) -> None:
        """Call the user's training function.

        Raises:
            UserCodeError: If it fails.
            ValueError: If no weight has changed, or if it returns another module, which would not be evaluated.
        """
        before = digest(model)
        # torch's generator has drawn the initial weights: continue from its state.
        seed_numpy_and_python()
        with user_code(self.name):
            made = self.trial.call_train(model, callback, recipe, group)
        if isinstance(made, nn.Module) and made is not model:
            raise ValueError(
                f"train of {self.name} returned another {type(made).__name__}, but the model that it was given is "
                "evaluated: train that one in place"
            )
        if before and digest(model) == before:
            raise ValueError(
                f"train of {self.name} left every weight of the model as it was: it must train the model that it is "
                "given, in place, and not a copy"
            )

    @property
    def _takes_split(self) -> bool:
        return "split" in inspect.signature(self.function).parameters

    def _load(self) -> None:
        with preserve_process_state(), self.modules.present():
            sys.argv = [str(self.file.path)]
            before = ProcessState.now()
            # Top-level code often draws data: it must be the same in every process.
            torch.manual_seed(0)
            seed_numpy_and_python()
            self.function = self.file.load(self.modules)
            self.changes = ProcessState.now().since(before)
            # The filters of other code, such as a test's, are not the file's.
            added = self.changes.pop("warning_filters", ())
            self.warning_filters = tuple(each for each in added if each not in before.warning_filters)

    def _seed(self) -> None:
        torch.manual_seed(self.seed)
        seed_numpy_and_python()

    def _make(self, norm: NormFactory, placement: PlacementLike) -> Trial:
        given = {"split": "study" if self.split in TESTED else "tune"} if self._takes_split else {}
        with self.context(), user_code(self.name):
            self._seed()
            self.norm = WatchedNorm(norm)
            made = self.function(self.norm, placement, self.seed, **given)
            self.seeded_with = torch.initial_seed()
        if not isinstance(made, Trial):
            raise TypeError(f"{self.name} must return a normscope.Trial, got {_describe(made)}")
        return made


def _differences(names: Iterable[str], left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, value) for attributes that differ between two objects; recursively for dataclasses."""
    for name in names:
        here, there = getattr(left, name), getattr(right, name)
        if is_dataclass(here):
            inner = _differences([field.name for field in fields(here)], here, there)
            yield from ((f"{name}.{deeper}", *values) for deeper, *values in inner)
        elif here != there:
            yield name, here, there


def _describe(value: Any) -> str:
    shape = f" {list(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def digest(model: nn.Module) -> list[str]:
    """Return the SHA-256 of every parameter."""
    parameters = (p.detach().reshape(-1).cpu().view(torch.uint8).numpy() for p in model.parameters() if p.numel())
    return [hashlib.sha256(array.data).hexdigest() for array in parameters]
