"""The files of a run: its description with versions and hardware, its metrics, and its result."""

import io
import json
import math
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from normscope.diagnostics.gradients.shares import GradientShares
from normscope.errors import NormscopeError
from normscope.kernels import describe
from normscope.results.aggregates import AGGREGATES
from normscope.results.pictures import pack
from normscope.results.store import SCHEMA, RunFolder, to_json
from normscope.tasks.custom.task import CustomTask
from normscope.tasks.measured import HasMeasures
from normscope.tasks.pictured import Pictured
from normscope.tasks.recipe import PRECISIONS, Recipe
from normscope.tasks.task import TESTED, Part, Split, Task, TaskData
from normscope.training.checkpoint import Progress
from normscope.training.memory import peak_bytes
from normscope.training.randomness import generator, generator_states
from normscope.version import __version__


def versions() -> dict[str, str]:
    """Return the versions of packages that affect the numbers, and the commit if the package is a git checkout."""
    found = {
        "normscope": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return found | ({"commit": commit} if (commit := _commit()) else {})


def device_name(device: torch.device) -> str:
    """Return the name of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def _commit() -> str | None:
    """Return the commit of the checkout, with ``+changes`` if tracked files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+changes", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # An installed copy may be inside another repository.
    return described.stdout.strip() if described.returncode == 0 and tracked.returncode == 0 else None


State = Literal["done", "diverged", "unscored"]
"""Final state of a run that ended without an error."""


class Failure(NamedTuple):
    """Why a run has no value: it diverged if a loss or a weight is not finite, else its scores are at fault."""

    state: Literal["diverged", "unscored"]
    """Final state of the run."""
    reason: str
    """Reason in one line."""


PROGRESS_SECONDS = 0.2
"""Minimum wall time between two calls of ``watch``."""


class Interrupted(NormscopeError):
    """The run was stopped on request, and can be resumed."""


class Watch(Protocol):
    """Callback of a run: reports progress and requests a stop."""

    def __call__(self, step: int, loss: float) -> bool:
        """Receive the progress; return True to write a checkpoint and stop the run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Evaluates the model of a run and writes the run's files."""

    task: Task
    """Metric and evaluation."""
    data: TaskData
    """Data of the evaluation."""
    model: nn.Module
    """The model in training."""
    recipe: Recipe
    """Training settings."""
    split: Split
    """Split of the run; only those in ``TESTED`` use the test data."""
    folder: RunFolder
    """Folder of the run."""
    progress: Progress
    """Progress of the run."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return torch.device(self.recipe.device)

    @property
    def unknown(self) -> frozenset[str]:
        """Settings of the recipe that a custom task neither follows nor was told."""
        return self.task.unknown(self.recipe) if isinstance(self.task, CustomTask) else frozenset()

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write the description of the run, and the metrics as they were at the checkpoint.

        Raises:
            LeaseLost: If another process has taken the run over.
        """
        if self.progress.rows or self.folder.metrics.exists():
            self._write_metrics(sync=False)
        self.folder.write(
            self.folder.description,
            to_json(
                {
                    "schema": SCHEMA,
                    **identity,
                    "parameters": self.parameters,
                    "backend": describe(self.device),
                    "device_name": device_name(self.device),
                    "versions": versions(),
                    "threads": torch.get_num_threads(),
                    "data": dict(self.data.hashes),
                    "signature": self.task.metric.signature,
                    "counts": dict(self.data.counts),
                }
            ),
        )

    def validate(self, shares: Mapping[str, GradientShares]) -> Failure | None:
        """Evaluate on validation data and keep the best weights; return the reason if a loss or score is not finite."""
        if self.task.location:
            self.progress.seeds = generator_states(self.device)
        scored = self._score("valid")
        if isinstance(scored, Failure):
            return scored
        loss, _, value = scored
        key = [-value if self.task.valid_metric.higher_is_better else value, loss]
        if not self.progress.best_weights or key < self.progress.best_key:
            self.progress.best_key, self.progress.best_value = key, value
            self.progress.best_step = self.progress.step
            self.progress.best_weights = _copied(self.model)
        if self.recipe.average > 1:
            copied = {k: kept.cpu() if torch.is_tensor(kept) else kept for k, kept in _copied(self.model).items()}
            self.progress.last_weights = [*self.progress.last_weights, copied][-self.recipe.average :]
        row = {
            "step": self.progress.step,
            "train_loss": statistics.fmean(self.progress.losses) if self.progress.losses else None,
            "valid_loss": loss,
            "valid_value": value,
            "seconds": round(self.progress.seconds, 4),
            "gradient": {
                name: [round(share.recentering, 6), round(share.rescaling, 6)] for name, share in shares.items()
            },
        }
        self.progress.losses = []
        if not self.progress.step:
            # A loop that reports nothing has no step to which the values belong.
            return None
        self.progress.rows.append(json.dumps(row, allow_nan=False))
        self._write_metrics(sync=False)
        return None

    def end(self, state: State, *, reason: str | None) -> State:
        """Test the selected weights, if the state is ``"done"``, and write the result.

        Returns:
            The state; instead of ``"done"``, ``"unscored"`` if a score is not finite, and ``"diverged"`` if a weight is
            not finite either.

        Raises:
            LeaseLost: If another process has taken the run over, or has published its result.
        """
        value = valid_value = selected = None
        measures: Mapping[str, float] = {}
        if state == "done":
            valid_value, selected = self.progress.best_value, self.progress.best_step
            self.model.load_state_dict(_mean(self.progress.last_weights) or self.progress.best_weights)
            if self.progress.last_weights:
                # Tuning is based on the averaged weights, too.
                scored = self._score("valid")
                if isinstance(scored, Failure):
                    return self.end(scored.state, reason=scored.reason)
                valid_value, selected = scored[2], self.progress.step
            value = valid_value
            if self.split in TESTED:
                scored = self._score("test")
                if isinstance(scored, Failure):
                    return self.end(scored.state, reason=scored.reason)
                _, scores, value = scored
                measures = self._measure(scores)
                if broken := [name for name, each in measures.items() if not math.isfinite(each)]:
                    return self.end("unscored", reason=f"the result {broken[0]} was {measures[broken[0]]}")
                self.folder.write(self.folder.examples, _npy(np.ascontiguousarray(scores, dtype=np.float32)))
            self._draw()
        if self.progress.rows:
            self._write_metrics(sync=True)
        self.folder.publish(
            {
                "schema": SCHEMA,
                "state": state,
                "value": value,
                "valid_value": valid_value,
                "selected_step": selected or None,
                "steps": self.progress.step or None,
                "step_ms": statistics.median(self.progress.step_ms) if self.progress.step_ms else None,
                "peak_bytes": self.peak(),
                "saved_bytes": self.progress.saved_bytes or None,
                "seconds": self.progress.seconds,
                "parameters": self.parameters,
                "reason": reason,
                "seeds": self.progress.seeds or None,
                **({"measures": dict(measures)} if measures else {}),
            },
        )
        self.folder.checkpoint.unlink(missing_ok=True)
        return state

    def peak(self) -> int | None:
        """Return the peak memory over all processes of the run."""
        peaks = [peak for peak in (self.progress.peak_bytes, peak_bytes(self.device)) if peak is not None]
        return max(peaks, default=None)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the recipe's precision."""
        wanted = self.recipe.precision != "float32"
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.recipe.precision], enabled=wanted)

    def _draw(self) -> None:
        """Write the pictures of a task that has any; latent numbers and the like are equal in all runs."""
        if not isinstance(self.task, Pictured):
            return
        self.model.eval()
        with torch.no_grad(), self.autocast():
            drawn = self.task.pictures(self.model, self.data, generator(0, "pictures"))
        self.folder.write(self.folder.pictures, pack(drawn))

    def _write_metrics(self, *, sync: bool) -> None:
        """Write all evaluations: a file to which two processes append would have the rows of both."""
        rows = "".join(f"{row}\n" for row in self.progress.rows)
        self.folder.write(self.folder.metrics, rows.encode(), sync=sync)

    def _measure(self, scores: np.ndarray) -> Mapping[str, float]:
        if not isinstance(self.task, HasMeasures):
            return {}
        self.model.eval()
        with torch.no_grad(), self.autocast():
            measures = self.task.measures(self.model, self.data, scores)
        self.model.train()
        return measures

    def _score(self, part: Part) -> tuple[float, np.ndarray, float] | Failure:
        """Evaluate the model; return loss, scores and value, or the reason why one of them is not finite."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            loss, scores = self.task.evaluate(self.model, self.data, part)
        self.model.train()
        name, metric = ("validation", self.task.valid_metric) if part == "valid" else ("test", self.task.metric)
        if broken := describe_broken(scores):
            words = f"the {name} score of {broken}"
        else:
            try:
                value = AGGREGATES[metric.aggregate].value(scores)
                words = f"the {name} score was {value}"
                if math.isfinite(loss) and math.isfinite(value):
                    return loss, scores, value
            except ValueError as error:
                words = f"the {name} scores have no {metric.aggregate}: {error}"
        weights = [key for key, weight in self.model.named_parameters() if not torch.isfinite(weight).all()]
        if weights:
            return Failure("diverged", f"the weight {weights[0]} was not finite")
        # The loss of a custom task is the mean of its scores.
        if not math.isfinite(loss) and not self.task.location:
            return Failure("diverged", f"the {name} loss was not finite")
        return Failure("unscored", words)


def describe_broken(scores: np.ndarray) -> str:
    """Return which scores are not finite, such as ``3 of 400 examples was not finite (the first: example 7)``.

    Args:
        scores: Score of every example, ``[E]`` or ``[E, K]``.

    Returns:
        The description; empty if all scores are finite.
    """
    broken = np.flatnonzero(~np.isfinite(scores.reshape(len(scores), -1)).all(axis=1))
    if not len(broken):
        return ""
    first = scores[broken[0]]
    return f"{len(broken)} of {len(scores)} examples was not finite (the first: example {broken[0]}, {first})"


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    # A state dict may contain objects other than tensors.
    state = model.state_dict()
    return {name: kept.clone() if isinstance(kept, torch.Tensor) else deepcopy(kept) for name, kept in state.items()}


def _mean(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Average state dicts; entries that are not floating-point, such as counts, are those of the last."""
    if not weights:
        return {}
    stacked = {name: [each[name] for each in weights] for name in weights[-1]}
    return {
        name: torch.stack(kept).mean(dim=0) if torch.is_tensor(kept[-1]) and kept[-1].is_floating_point() else kept[-1]
        for name, kept in stacked.items()
    }


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
