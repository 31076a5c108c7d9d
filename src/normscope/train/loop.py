"""One run, from its first weights to its result on disk."""

import io
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from normscope.kernels import describe
from normscope.probes import GradientShares, gradient_shares
from normscope.results.aggregates import AGGREGATES
from normscope.results.disk import SCHEMA, write_bytes, write_json
from normscope.results.store import RunFolder
from normscope.tasks.own import OwnTask
from normscope.tasks.recipe import PRECISIONS, Recipe
from normscope.tasks.task import Metric, Task, TaskData
from normscope.tasks.trial import Stop
from normscope.train import checkpoint
from normscope.train.environment import device_name, versions
from normscope.train.memory import count_saved, peak_bytes, reset_peak, watch_update
from normscope.train.streams import generator, seed_dropout

CHECKPOINT_SECONDS = 20.0
"""Wall time between checkpoints: what a kill can cost."""

PROGRESS_SECONDS = 0.2
"""Wall time between two calls of ``progress``."""


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written and the run can go on from it."""


class Watch(Protocol):
    """What a run tells while it goes, and asks."""

    def __call__(self, step: int, loss: float) -> bool:
        """Take a sign of life; return True to stop the run at its next checkpoint, which is now."""
        ...


def train(
    task: Task,
    build: Callable[[], nn.Module],
    *,
    seed: int,
    recipe: Recipe,
    split: str,
    preset: str,
    folder: RunFolder,
    identity: Mapping[str, Any],
    watch: Watch,
) -> str:
    """Train one model, or go on where an interrupted run stopped, and write its result.

    The model that is tested is the one with the best validation value, ties broken by validation loss, then by the
    earlier step, or the mean of the last few where the recipe averages: the same rule for every arm. The test set is
    read once, after the last update. A checkpoint that cannot be read is kept under another name with a warning, and
    the run begins again: the same numbers, only later.

    Args:
        task: Data, loss and metric.
        build: Makes the model with its first weights, see :func:`normscope.train.streams.initialize`.
        seed: Source of the streams of data order and dropout.
        recipe: How it is trained.
        split: ``"study"``, or ``"tune"``: a split of its own, which never touches the test set.
        preset: Which of the task's sizes the data are for.
        folder: Where the run keeps its files; the caller holds its lock.
        identity: What the run is, written to ``run.json`` before step 0.
        watch: Called a few times a second.

    Returns:
        ``"done"`` or ``"diverged"``: the loss was not finite at some step.

    Raises:
        Interrupted: If ``watch`` asked for it; a checkpoint has been written.
        ValueError: If the recipe does not fit the data.
    """
    device = torch.device(recipe.device)
    with _deterministic(device):
        model = build().to(device)
        # A user's own task knows its data when its model is built.
        data = task.load(device, split, preset)
        try:
            run = _Run(task, data, model, seed, recipe, split, folder, identity, watch)
        except checkpoint.CheckpointDamaged as error:
            checkpoint.set_aside(folder)
            warnings.warn(f"{error}; the run begins again, and the file is kept beside it", stacklevel=2)
            run = _Run(task, data, build().to(device), seed, recipe, split, folder, identity, watch)
        return run.execute()


class _Run:
    def __init__(
        self,
        task: Task,
        data: TaskData,
        model: nn.Module,
        seed: int,
        recipe: Recipe,
        split: str,
        folder: RunFolder,
        identity: Mapping[str, Any],
        watch: Watch,
    ) -> None:
        self.task, self.data, self.model, self.seed, self.recipe = task, data, model, seed, recipe
        self.split, self.folder, self.identity, self.watch = split, folder, identity, watch
        self.device = torch.device(recipe.device)
        self.order = data.order(recipe.batch_size, partial(generator, seed, "data"))
        self.optimizer = recipe.make_optimizer(model)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.progress = checkpoint.restore(folder, model, self.optimizer) or checkpoint.Progress()
        self.compute_loss = torch.compile(task.loss, dynamic=True) if recipe.compile else task.loss
        self.loss = math.nan
        self.shares: dict[str, GradientShares] = {}

    def execute(self) -> str:
        reset_peak(self.device)
        self._forget_later_lines()
        self._describe()
        self.model.train()
        if isinstance(self.task, OwnTask) and self.task.trial.train is not None:
            return self._drive(self.task)
        started = time.perf_counter() - self.progress.seconds
        saved_at = told_at = time.perf_counter()
        while self.progress.step < self.recipe.steps:
            looks = self.recipe.evaluates_after(self.progress.step + 1)
            if looks:
                # A look takes memory of its own, which is no cost of the arm.
                self.progress.peak_bytes = self._peak()
            begin = time.perf_counter()
            finite = self._update(looks) if self.device.type == "cuda" else self._update_watched(looks)
            end = time.perf_counter()
            self.progress.step_ms.append((end - begin) * 1e3)
            self.progress.seconds = end - started
            if not finite:
                return self._end("diverged", reason=f"the training loss was {self.loss} at step {self.progress.step}")
            if looks and not self._evaluate():
                return self._end("diverged", reason=f"the validation loss was not finite at step {self.progress.step}")
            if looks:
                reset_peak(self.device)
            if end - told_at < PROGRESS_SECONDS and self.progress.step > 1:
                continue
            told_at = end
            stop = self.watch(self.progress.step, self.loss)
            if stop or end - saved_at > CHECKPOINT_SECONDS:
                self._save()
                saved_at = time.perf_counter()
            if stop:
                raise Interrupted(f"{self.folder.path} stopped at step {self.progress.step} of {self.recipe.steps}")
        return self._end("done", reason=None)

    def _drive(self, task: OwnTask) -> str:
        """Let a user's own function train, from the beginning; what it tells decides whether it diverged or stops.

        Raises:
            Interrupted: If ``watch`` asked for it; the run begins anew when it goes on.
        """
        begin = told_at = time.perf_counter()
        stopped = False

        def tell(step: int, loss: float) -> None:
            nonlocal told_at, stopped
            now = time.perf_counter()
            self.progress.step, self.loss = step, float(loss)
            self.progress.losses.append(self.loss)
            if not math.isfinite(self.loss):
                raise Stop
            if now - told_at > PROGRESS_SECONDS:
                told_at, stopped = now, self.watch(step, self.loss)
                if stopped:
                    raise Stop

        try:
            task.drive(self.model, tell)
        except Stop:
            if stopped:
                raise Interrupted(f"{self.folder.path} stopped at step {self.progress.step}") from None
            return self._end("diverged", reason=f"the training loss was {self.loss} at step {self.progress.step}")
        self.progress.seconds = time.perf_counter() - begin
        self.progress.step = self.progress.step or self.recipe.steps
        self.progress.step_ms = [self.progress.seconds * 1e3 / self.progress.step]
        if not self._evaluate():
            return self._end("diverged", reason="the validation value was not finite after training")
        return self._end("done", reason=None)

    def _update_watched(self, looks: bool) -> bool:
        """Make one update; the second one, which finds the optimizer's state there, tells the peak of a CPU."""
        if self.progress.step != 1 or looks:
            return self._update(looks)
        with watch_update(self.model, self.optimizer) as peak:
            finite = self._update(looks)
        self.progress.peak_bytes = peak[0]
        return finite

    def _update(self, looks: bool) -> bool:
        """Make one update; tell whether its loss was finite. One that ``looks`` reads the gradient at the norms."""
        step = self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        seed_dropout(self.seed, step, self.device)
        batch = self.data.batch(self.order.batch(step))
        with gradient_shares(self.model) if looks else nullcontext({}) as self.shares:
            with count_saved(self.model) if step == 0 else nullcontext([0]) as saved, self._autocast():
                loss = self.compute_loss(self.model, batch)
            self.progress.saved_bytes += saved[0]
            self.progress.step = step + 1
            self.loss = loss.item()
            if not math.isfinite(self.loss):
                return False
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.progress.losses.append(self.loss)
        return True

    def _evaluate(self) -> bool:
        """Look at the validation set, keep the best weights; tell whether the loss was finite."""
        loss, scores = self._score("valid")
        if not math.isfinite(loss):
            return False
        value = _value(self.task.valid_metric, scores)
        key = [-value if self.task.valid_metric.higher_is_better else value, loss]
        if not self.progress.best_weights or key < self.progress.best_key:
            self.progress.best_key, self.progress.best_value = key, value
            self.progress.best_step = self.progress.step
            self.progress.best_weights = _copied(self.model)
        if self.recipe.average > 1:
            self.progress.last_weights = [*self.progress.last_weights, _copied(self.model)][-self.recipe.average :]
        row = {
            "step": self.progress.step,
            "train_loss": statistics.fmean(self.progress.losses) if self.progress.losses else None,
            "valid_loss": loss,
            "valid_value": value,
            "seconds": round(self.progress.seconds, 4),
            "gradient": {
                name: [round(share.recentering, 6), round(share.rescaling, 6)] for name, share in self.shares.items()
            },
        }
        self.progress.losses = []
        with self.folder.metrics.open("ab") as file:
            file.write(_line(row))
        self.progress.metrics_bytes = self.folder.metrics.stat().st_size
        return True

    def _score(self, part: str) -> tuple[float, np.ndarray]:
        self.model.eval()
        with torch.no_grad(), self._autocast():
            scored = self.task.evaluate(self.model, self.data, part)
        self.model.train()
        return scored

    def _end(self, state: str, *, reason: str | None) -> str:
        value = valid_value = selected = None
        if state == "done":
            valid_value, selected = self.progress.best_value, self.progress.best_step
            value = valid_value
            if self.split == "study":
                self.model.load_state_dict(_mean(self.progress.last_weights) or self.progress.best_weights)
                _, scores = self._score("test")
                value = _value(self.task.metric, scores)
                write_bytes(self.folder.examples, _npy(scores.astype(np.float32)))
        write_json(
            self.folder.result,
            {
                "schema": SCHEMA,
                "state": state,
                "value": value,
                "valid_value": valid_value,
                "selected_step": selected,
                "steps": self.progress.step,
                "step_ms": statistics.median(self.progress.step_ms) if self.progress.step_ms else None,
                "peak_bytes": self._peak(),
                "saved_bytes": self.progress.saved_bytes,
                "seconds": self.progress.seconds,
                "parameters": self.parameters,
                "reason": reason,
            },
        )
        self.folder.checkpoint.unlink(missing_ok=True)
        return state

    def _forget_later_lines(self) -> None:
        """Drop what was appended to the metrics after the checkpoint.

        The file is written anew: one that leads elsewhere, by a link, is left as it is and replaced.
        """
        if self.folder.metrics.exists():
            write_bytes(self.folder.metrics, self.folder.metrics.read_bytes()[: self.progress.metrics_bytes])

    def _describe(self) -> None:
        write_json(
            self.folder.description,
            {
                "schema": SCHEMA,
                **self.identity,
                "parameters": self.parameters,
                "backend": describe(self.device),
                "device_name": device_name(self.device),
                "versions": versions(),
                "threads": torch.get_num_threads(),
                "data": dict(self.data.hashes),
                "signature": self.task.metric.signature,
            },
        )

    def _peak(self) -> int | None:
        """Give the peak over every process that worked on this run."""
        peaks = [peak for peak in (self.progress.peak_bytes, peak_bytes(self.device)) if peak is not None]
        return max(peaks, default=None)

    def _save(self) -> None:
        self.progress.peak_bytes = self._peak()
        checkpoint.save(self.folder, self.model, self.optimizer, self.progress)

    def _autocast(self) -> torch.autocast:
        wanted = self.recipe.precision != "float32"
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.recipe.precision], enabled=wanted)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Ask for operations that give the same bits again; on CPUs with a fixed number of threads they do anyway."""
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _value(metric: Metric, scores: np.ndarray) -> float:
    return AGGREGATES[metric.aggregate].value(scores)


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _mean(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Average weights; what is no floating number, such as a count, is taken from the last. None give none."""
    if not weights:
        return {}
    stacked = {name: [each[name] for each in weights] for name in weights[-1]}
    return {
        name: torch.stack(tensors).mean(dim=0) if tensors[-1].is_floating_point() else tensors[-1]
        for name, tensors in stacked.items()
    }


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
