"""One run, from its first weights to its result on disk."""

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
from normscope.training.outcome import PROGRESS_SECONDS, Interrupted, Outcome, Watch
from normscope.training.randomness import generator, seed_dropout
from normscope.training.user_loop import drive

CHECKPOINT_SECONDS = 20.0
"""Wall time between checkpoints: what a kill can cost."""

CHECKPOINT_SHARE = 20
"""Times as long as the last checkpoint took to write: what they may cost a large model is a twentieth."""


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
) -> str:
    """Train one model, or go on where an interrupted run stopped, and write its result.

    The model that is tested is the one with the best validation value, ties broken by validation loss, then by the
    earlier step, or the mean of the last few where the recipe averages: the same rule for every arm. The test set is
    read once, after the last update. A checkpoint that cannot be read is kept under another name with a warning, and
    the run begins again: the same numbers, only later.

    Args:
        task: Data, loss and metric.
        build: Makes the model with its first weights, see :func:`normscope.training.randomness.initialize`.
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
            warnings.warn(f"{error}; the run begins again, and the file is kept beside it", stacklevel=2)
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

    def execute(self, identity: Mapping[str, Any]) -> str:
        reset_peak(self.device)
        self.outcome.begin(identity)
        self.model.train()
        started = time.perf_counter() - self.progress.seconds
        saved_at = told_at = time.perf_counter()
        took = 0.0
        while self.progress.step < self.recipe.steps:
            looks = self.recipe.evaluates_after(self.progress.step + 1)
            if looks:
                # A look takes memory of its own, which is no cost of the arm.
                self.progress.peak_bytes = self.outcome.peak()
            begin = time.perf_counter()
            finite = self._update(looks) if self.device.type == "cuda" else self._update_watched(looks)
            end = time.perf_counter()
            self.progress.step_ms.append((end - begin) * 1e3)
            self.progress.seconds = end - started
            if not finite:
                return self._diverge(f"the training loss was {self.loss}")
            if looks and not self.outcome.validate(self.shares):
                return self._diverge("the validation loss was not finite")
            if looks:
                reset_peak(self.device)
            if end - told_at < PROGRESS_SECONDS and self.progress.step > 1:
                continue
            told_at = end
            stop = self.watch(self.progress.step, self.loss)
            if stop or end - saved_at > max(CHECKPOINT_SECONDS, CHECKPOINT_SHARE * took):
                self._save()
                saved_at = time.perf_counter()
                took = saved_at - end
            if stop:
                raise Interrupted(f"{self.folder.path} stopped at step {self.progress.step} of {self.recipe.steps}")
        return self.outcome.end("done", reason=None)

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
            with count_saved(self.model) if step == 0 else nullcontext([0]) as saved, self.outcome.autocast():
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

    def _diverge(self, why: str) -> str:
        return self.outcome.end("diverged", reason=f"{why} at step {self.progress.step}")

    def _save(self) -> None:
        self.progress.peak_bytes = self.outcome.peak()
        checkpoint.save(self.folder, self.model, self.optimizer, self.progress)


@contextmanager
def _deterministic(device: torch.device, *, warn_only: bool) -> Iterator[None]:
    """Ask for operations that give the same bits again; on CPUs with a fixed number of threads they do anyway.

    Our own models have no others; where a user's has, a warning says so.
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
