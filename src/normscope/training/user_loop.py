"""A run with the training loop of a custom task: not resumable, and monitored through its callback."""

import contextlib
import math
import operator
import time
from typing import Any

import torch
import torch.distributed as dist

from normscope.tasks.custom.trial import Stop
from normscope.tasks.task import TrainLoop
from normscope.training.memory import reset_peak
from normscope.training.outcome import PROGRESS_SECONDS, Interrupted, Outcome, State, Watch
from normscope.training.randomness import seed_dropout

__tracebackhide__ = True


def drive(loop: TrainLoop, outcome: Outcome, seed: int, watch: Watch, *, shared: bool = False) -> State:
    """Run a training loop and write the result of the run.

    The model is evaluated once, at the end. The global random generators are seeded with the run's seed.

    Args:
        loop: The training loop of the task.
        outcome: Outcome of the run, at its beginning.
        seed: Seed of the run.
        watch: Called a few times per second, from the loop's callback.
        shared: Whether other processes follow this one, so that the loop is given the process group.

    Returns:
        ``"done"``; ``"diverged"`` if a reported loss or a weight is not finite; or ``"unscored"`` if only a score is
        not finite.

    Raises:
        Interrupted: If ``watch`` requests a stop; the run then starts over when it is continued.
        UserCodeError: If the loop fails.
        ValueError: If the loop changes no weight of the model, or returns another model.
    """
    callback = _Callback(outcome, watch)
    seed_dropout(seed, 0, outcome.device)
    reset_peak(outcome.device)
    outcome.model.train()
    begin = time.perf_counter()
    # Keep the original stop reason even if the user's function swallowed the exception.
    try:
        loop(outcome.model, callback, outcome.recipe, **({"group": dist.group.WORLD} if shared else {}))
    except Stop:
        pass
    except Exception:
        if not callback.stopped and not callback.diverged:
            raise
    progress = outcome.progress
    progress.seconds = time.perf_counter() - begin
    if callback.stopped:
        raise Interrupted(f"{outcome.folder.path} stopped at step {progress.step}")
    if callback.diverged:
        return outcome.end("diverged", reason=f"the training loss was {callback.loss} at step {progress.step}")
    # Where the callback is never called and no recipe is given, the number of updates stays unknown.
    if "steps" not in outcome.unknown:
        progress.step = progress.step or outcome.recipe.steps
    progress.step_ms = [progress.seconds * 1e3 / progress.step] if progress.step else []
    progress.peak_bytes = outcome.peak()
    if (failure := outcome.validate({})) is not None:
        return outcome.end(failure.state, reason=f"{failure.reason} after training")
    return outcome.end("done", reason=None)


def follow(loop: TrainLoop, outcome: Outcome, seed: int) -> State:
    """Run a training loop in a process that is not the first of a run: nothing is evaluated or written.

    Args:
        loop: The training loop of the task, which is given the process group.
        outcome: Outcome of the run, at its beginning.
        seed: Seed of the run.

    Returns:
        ``"done"``, or ``"diverged"`` if a reported loss is not finite.

    Raises:
        UserCodeError: If the loop fails.
    """
    callback = _Callback(outcome, lambda step, loss: False)
    seed_dropout(seed, 0, outcome.device)
    outcome.model.train()
    with contextlib.suppress(Stop):
        loop(outcome.model, callback, outcome.recipe, group=dist.group.WORLD)
    return "diverged" if callback.diverged else "done"


class _Callback:
    """The callback of a training loop."""

    def __init__(self, outcome: Outcome, watch: Watch) -> None:
        self.progress, self.watch = outcome.progress, watch
        self.loss = math.nan
        self.stopped = self.diverged = False
        self.watched_at = time.perf_counter()

    def __call__(self, *given: Any, **named: Any) -> None:
        """Record the number of updates made and the last loss.

        Raises:
            Stop: If the run is to end.
            TypeError: As for :func:`read_callback`.
        """
        if self.stopped or self.diverged:
            raise Stop
        self.progress.step, self.loss = read_callback(*given, **named)
        self.diverged = not math.isfinite(self.loss)
        if self.diverged:
            raise Stop
        self.progress.losses.append(self.loss)
        now = time.perf_counter()
        if now - self.watched_at > PROGRESS_SECONDS:
            self.watched_at = now
            self.stopped = self.watch(self.progress.step, self.loss)
            if self.stopped:
                raise Stop


def read_callback(*given: Any, **named: Any) -> tuple[int, float]:
    """Parse the arguments of ``callback(step, loss)``.

    Raises:
        TypeError: If the step is not an integer of at least 0, or the loss not a real number or a one-element tensor.
    """
    try:
        step, loss = _pair(*given, **named)
        number = operator.index(step)
        value = float(getattr(loss, "detach", lambda: loss)())
        if number < 0 or isinstance(loss, str | bytes):
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        got = ", ".join([*map(_shown, given), *(f"{name}={_shown(value)}" for name, value in named.items())])
        raise TypeError(
            "callback takes the number of updates made, an integer of at least 0, and the last loss, a number or a "
            f"one-element tensor: callback(step, loss), got callback({got})"
        ) from None
    return number, value


def _pair(step: Any, loss: Any) -> tuple[Any, Any]:
    return step, loss


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
