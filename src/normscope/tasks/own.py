"""A task in a user's own file: ``my_file.py:make``, a function of a norm, a placement and a seed."""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published
from normscope.tasks.trial import Tell, Trial, TrialData


class OwnCodeError(RuntimeError):
    """The user's function failed; the message has their part of the traceback."""


class OwnTask:
    """A task that a user's function makes anew for every run.

    Args:
        name: ``path.py:function``.
        norm: What the function is tried with, to learn its metric and recipe.
        placement: Likewise.

    Raises:
        LookupError: If there is no such file, or no such function in it; the message suggests the nearest name.
        OwnCodeError: If the file or the function fails.
        TypeError: If the function does not take norm, placement and seed, or returns no :class:`Trial`.
    """

    def __init__(self, name: str, *, norm: NormFactory, placement: PlacementLike) -> None:
        self.name = name
        self.function, self.digest = _load(name)
        self.seed, self.split = 0, "study"
        self.trial = self._make(norm, placement)
        self.description = (inspect.getdoc(self.function) or "a task of your own").partition("\n")[0]

    def fresh(self, seed: int, split: str) -> "OwnTask":
        """Give the same task for another run; its trial is made by :meth:`network`.

        Raises:
            ValueError: If ``split`` is ``"tune"`` and the function has no parameter ``split``: tuning must not touch
                what the study is judged by.
        """
        if split == "tune" and "split" not in inspect.signature(self.function).parameters:
            raise ValueError(
                f"{self.name} cannot be tuned: give the function a parameter split, and hold training data out to "
                "validate where it is 'tune'"
            )
        other = object.__new__(OwnTask)
        other.__dict__ |= {**self.__dict__, "seed": seed, "split": split}
        return other

    @property
    def revision(self) -> int:
        """Of the file's text: an edited file makes new runs. What the file imports is not in it."""
        return int(self.digest[:12], 16)

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

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Call the function, and keep what else it made."""
        self.trial = self._make(norm, placement)
        return self.trial.model

    def load(self, device: torch.device, split: str, preset: str) -> TrialData:
        """Give the batches of the trial."""
        # One that trains itself asks for none.
        batches = self.trial.batches if self.trial.batches is not None else (None,)
        hashes = {Path(self.name.rpartition(":")[0]).name: self.digest}
        return TrialData(batches=batches, device=device, hashes=hashes)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Compute their training loss.

        Raises:
            TypeError: If it is no scalar tensor.
        """
        assert self.trial.loss is not None
        with _theirs(self.name):
            loss = self.trial.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"loss must return a scalar tensor, got {_told(loss)}")
        return loss.reshape(())

    def evaluate(self, model: nn.Module, data: TrialData, part: str) -> tuple[float, np.ndarray]:
        """Give every example's score, and minus their mean where higher is better as the loss that parts equal values.

        Raises:
            TypeError: If ``evaluate`` returned something else than numbers.
            ValueError: If it returned none.
        """
        with _theirs(self.name):
            found = self.trial.evaluate(model, part)
        try:
            scores = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"evaluate must return numbers, a score an example, got {_told(found)}") from error
        scores = scores.reshape(1) if scores.ndim == 0 else scores
        if not scores.size:
            raise ValueError(f"evaluate returned no score for the part {part!r}")
        mean = float(scores.mean(dtype=np.float64))
        return -mean if self.metric.higher_is_better else mean, scores

    def drive(self, model: nn.Module, tell: Tell) -> bool:
        """Let the user's function train; False where they left it to us."""
        if self.trial.train is None:
            return False
        with _theirs(self.name):
            self.trial.train(model, tell)
        return True

    def _make(self, norm: NormFactory, placement: PlacementLike) -> Trial:
        given = {"split": self.split} if "split" in inspect.signature(self.function).parameters else {}
        # Equal seeds give equal first weights to arms whose norms draw nothing, as ours do.
        with torch.random.fork_rng(devices=[]), _theirs(self.name):
            torch.manual_seed(self.seed)
            made = self.function(norm, placement, self.seed, **given)
        if not isinstance(made, Trial):
            raise TypeError(f"{self.name} must return a normscope.Trial, got {_told(made)}")
        return made


def _load(name: str) -> tuple[Callable[..., Any], str]:
    """Import a user's file and find the function.

    Raises:
        LookupError: If one of them is not there.
        OwnCodeError: If the file fails.
        TypeError: If the function does not take norm, placement and seed.
    """
    text, _, wanted = name.rpartition(":")
    path = Path(text).expanduser()
    if not path.is_file():
        raise LookupError(f"there is no file {text!r}, looked for in {Path.cwd()}")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    key = f"normscope_own_{digest[:16]}"
    module = sys.modules.get(key)
    if module is None:
        module = _import(path.resolve(), key, name)
    function = getattr(module, wanted, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == key]
        near = get_close_matches(wanted, there, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LookupError(f"{text} has no function {wanted!r}: {hint}It has {', '.join(there) or 'none'}")
    try:
        inspect.signature(function).bind(None, None, 0)
    except TypeError as error:
        raise TypeError(f"{name} must take norm, placement and seed: {error}") from error
    return function, digest


def _import(path: Path, key: str, name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(key, path)
    if found is None or found.loader is None:
        raise LookupError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    # What stands beside the file can be imported by it, as when it is run.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[key] = module
    try:
        with _theirs(name):
            found.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


@contextlib.contextmanager
def _theirs(name: str) -> Any:
    """Turn an error of the user's code into one that shows their frames and none of ours.

    Raises:
        OwnCodeError: If the code inside failed.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        here = {__file__, contextlib.__file__}
        kept = [frame for frame in frames if frame.filename not in here and "importlib" not in frame.filename]
        lines = traceback.format_list(kept) + traceback.format_exception_only(error)
        raise OwnCodeError(f"{name} failed:\n{''.join(lines).rstrip()}") from error


def _told(value: Any) -> str:
    shape = f" {list(value.shape)}" if isinstance(value, Tensor | np.ndarray) else ""
    return f"{type(value).__name__}{shape}"
