"""The training loop of a run, from its initial weights to its result on disk."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from normscope.diagnostics import gradient_shares
from normscope.diagnostics.gradients.shares import GradientShares
from normscope.results.store import RunFolder
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Split, Task, TaskData
from normscope.training import checkpoint
from normscope.training.checkpoint import Progress
from normscope.training.memory import count_saved, reset_peak, watch_update
from normscope.training.outcome import PROGRESS_SECONDS, Interrupted, Outcome, State, Watch
from normscope.training.randomness import generator, seed_dropout
from normscope.training.user_loop import drive

CHECKPOINT_SECONDS = 20.0
"""Minimum wall time between checkpoints, which bounds the work lost by a kill."""

CHECKPOINT_SHARE = 20
"""Minimum time between checkpoints, in units of the last writing time, so that they cost at most a twentieth."""


def train(
    task: Task,
    build: Callable[[], nn.Module],
    *,
    seed: int,
    recipe: Recipe,
    split: Split,
    preset: str,
    folder: RunFolder,
    identity: Mapping[str, Any],
    watch: Watch,
) -> State:
    """Train a model, or continue an interrupted run, and write its result.

    The tested weights are those of the best validation value, ties broken by validation loss and then by the earlier
    step, or the mean of the last evaluations if the recipe averages: the same rule for every arm. The test data are
    used once, after the last update. A damaged checkpoint is renamed with a warning, and the run starts over, with the
    same results.

    Args:
        task: Data, loss and metric.
        build: Builds the model with its initial weights, see :func:`normscope.training.randomness.initialize`.
        seed: Seed of the streams of data order and dropout.
        recipe: Training settings.
        split: Split of the data; only those in ``TESTED`` use the test data.
        preset: Key of the task's presets.
        folder: Folder of the run; the caller holds its lease.
        identity: Description of the run, written to ``run.json`` before step 0.
        watch: Called a few times per second.

    Returns:
        ``"done"``; ``"diverged"`` if a loss is not finite; or ``"unscored"`` if a score is not finite.

    Raises:
        Interrupted: If ``watch`` requests a stop; a checkpoint has been written.
        ValueError: If the recipe does not fit the data.
    """
    device = torch.device(recipe.device)
    with _deterministic(device, warn_only=not task.deterministic):
        model = build().to(device)
        # A custom task knows its data only when its model has been built.
        data = task.load(device, split, preset)
        if task.train is not None:
            outcome = Outcome(
                task=task, data=data, model=model, recipe=recipe, split=split, folder=folder, progress=Progress()
            )
            outcome.begin(identity)
            return drive(task.train, outcome, seed, watch)
        try:
            run = _Run(task, data, model, seed, recipe, split, folder, watch)
        except checkpoint.CheckpointDamaged as error:
            checkpoint.set_aside(folder)
            warnings.warn(f"{error}; the run begins again, and the file is kept as checkpoint.damaged", stacklevel=2)
            run = _Run(task, data, build().to(device), seed, recipe, split, folder, watch)
        return run.execute(identity)


class _Run:
    def __init__(
        self,
        task: Task,
        data: TaskData,
        model: nn.Module,
        seed: int,
        recipe: Recipe,
        split: Split,
        folder: RunFolder,
        watch: Watch,
    ) -> None:
        self.task, self.data, self.model, self.seed, self.recipe = task, data, model, seed, recipe
        self.folder, self.watch = folder, watch
        self.device = torch.device(recipe.device)
        self.order = data.order(recipe.batch_size, partial(generator, seed, "data"))
        self.optimizer = recipe.make_optimizer(model)
        self.progress = checkpoint.restore(folder, model, self.optimizer) or Progress()
        self.outcome = Outcome(
            task=task, data=data, model=model, recipe=recipe, split=split, folder=folder, progress=self.progress
        )
        self.compute_loss = torch.compile(task.loss, dynamic=True) if recipe.compile else task.loss
        self.loss = math.nan
        self.shares: dict[str, GradientShares] = {}

    def execute(self, identity: Mapping[str, Any]) -> State:
        reset_peak(self.device)
        self.outcome.begin(identity)
        self.model.train()
        started = time.perf_counter() - self.progress.seconds
        saved_at = watched_at = time.perf_counter()
        took = 0.0
        while self.progress.step < self.recipe.steps:
            evaluates = self.recipe.evaluates_after(self.progress.step + 1)
            if evaluates:
                # Evaluation memory is excluded from the arm's peak.
                self.progress.peak_bytes = self.outcome.peak()
            begin = time.perf_counter()
            finite = self._update(evaluates) if self.device.type == "cuda" else self._update_watched(evaluates)
            end = time.perf_counter()
            self.progress.step_ms.append((end - begin) * 1e3)
            self.progress.seconds = end - started
            if not finite:
                return self._end("diverged", f"the training loss was {self.loss}")
            if evaluates and (failure := self.outcome.validate(self.shares)) is not None:
                return self._end(*failure)
            if evaluates:
                reset_peak(self.device)
            if end - watched_at < PROGRESS_SECONDS and self.progress.step > 1:
                continue
            watched_at = end
            stop = self.watch(self.progress.step, self.loss)
            if stop or end - saved_at > max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * took):
                self._save()
                saved_at = time.perf_counter()
                took = saved_at - end
            if stop:
                raise Interrupted(f"{self.folder.path} stopped at step {self.progress.step} of {self.recipe.steps}")
        return self.outcome.end("done", reason=None)

    def _update_watched(self, evaluates: bool) -> bool:
        """Make an update; on a CPU the second one, when the optimizer's state exists, measures the peak memory."""
        if self.progress.step != 1 or evaluates:
            return self._update(evaluates)
        with watch_update(self.model, self.optimizer) as peak:
            finite = self._update(evaluates)
        self.progress.peak_bytes = peak[0]
        return finite

    def _update(self, evaluates: bool) -> bool:
        """Make an update and return whether its loss is finite; with ``evaluates``, measure the gradients at norms."""
        step = self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        seed_dropout(self.seed, step, self.device)
        batch = self.data.batch(self.order.batch(step))
        with gradient_shares(self.model) if evaluates else nullcontext({}) as self.shares:
            with count_saved(self.model) if step == 0 else nullcontext([0]) as saved, self.outcome.autocast():
                loss = self.compute_loss(self.model, batch)
            self.progress.saved_bytes += saved[0]
            self.progress.step = step + 1
            self.loss = loss.item()
            if not math.isfinite(self.loss):
                return False
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.recipe.clip_gradients(self.model)
        self.optimizer.step()
        self.progress.losses.append(self.loss)
        return True

    def _end(self, state: State, why: str) -> State:
        return self.outcome.end(state, reason=f"{why} at step {self.progress.step}")

    def _save(self) -> None:
        self.progress.peak_bytes = self.outcome.peak()
        checkpoint.save(self.folder, self.model, self.optimizer, self.progress)


@contextmanager
def _deterministic(device: torch.device, *, warn_only: bool) -> Iterator[None]:
    """Require deterministic operations on accelerators; on CPUs with a fixed number of threads all are deterministic.

    With ``warn_only``, for the models of custom tasks, other operations cause a warning instead of an error.
    """
    if device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
