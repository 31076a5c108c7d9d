"""A run whose training is a user's own function: from the beginning each time, watched by what it tells."""

import math
import operator
import time
from typing import Any

import torch

from normscope.tasks.custom.trial import Stop
from normscope.tasks.task import TrainLoop
from normscope.training.memory import reset_peak
from normscope.training.outcome import PROGRESS_SECONDS, Interrupted, Outcome, Watch
from normscope.training.randomness import seed_dropout

__tracebackhide__ = True


def drive(loop: TrainLoop, outcome: Outcome, seed: int, watch: Watch) -> str:
    """Let a user's function train a model, and write the run's result.

    It is judged once, at its end. What it draws from the global generators, the seed decides.

    Args:
        loop: The training loop of the task.
        outcome: Of a run that has not begun.
        seed: Of the run.
        watch: Called a few times a second, when the function tells something.

    Returns:
        ``"done"``, or ``"diverged"``: a loss that it told, or a score at the end, was not finite.

    Raises:
        Interrupted: If ``watch`` asked for it; the run begins anew when it goes on.
        UserCodeError: If the function fails.
        ValueError: If it left the model's weights as they were, or returned another model.
    """
    callback = _Callback(outcome, watch)
    seed_dropout(seed, 0, outcome.device)
    reset_peak(outcome.device)
    outcome.model.train()
    begin = time.perf_counter()
    # Whatever the function made of the stop, even nothing, the reason for it stands.
    try:
        loop(outcome.model, callback, outcome.recipe)
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
    progress.step = progress.step or outcome.recipe.steps
    progress.step_ms = [progress.seconds * 1e3 / progress.step]
    progress.peak_bytes = outcome.peak()
    if not outcome.validate({}):
        return outcome.end("diverged", reason="the validation loss was not finite after training")
    return outcome.end("done", reason=None)


class _Callback:
    """What a user's function calls."""

    def __init__(self, outcome: Outcome, watch: Watch) -> None:
        self.progress, self.watch = outcome.progress, watch
        self.loss = math.nan
        self.stopped = self.diverged = False
        self.told_at = time.perf_counter()

    def __call__(self, *given: Any, **named: Any) -> None:
        """Take the number of updates that are made and the loss of the last, a number or a tensor of one.

        Raises:
            Stop: If the run is to end here.
            TypeError: As :func:`read_callback`.
        """
        if self.stopped or self.diverged:
            raise Stop
        self.progress.step, self.loss = read_callback(*given, **named)
        self.diverged = not math.isfinite(self.loss)
        if self.diverged:
            raise Stop
        self.progress.losses.append(self.loss)
        now = time.perf_counter()
        if now - self.told_at > PROGRESS_SECONDS:
            self.told_at = now
            self.stopped = self.watch(self.progress.step, self.loss)
            if self.stopped:
                raise Stop


def read_callback(*given: Any, **named: Any) -> tuple[int, float]:
    """Read what a user's function tells: ``callback(step, loss)``.

    Raises:
        TypeError: If it is not a whole number from 0 up and a real number, or a tensor of one.
    """
    try:
        step, loss = _pair(*given, **named)
        number = operator.index(step)
        value = float(getattr(loss, "detach", lambda: loss)())
        if number < 0 or isinstance(loss, str | bytes):
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        got = ", ".join([*map(_shown, given), *(f"{name}={_shown(one)}" for name, one in named.items())])
        raise TypeError(
            "callback takes the number of updates made, a whole number from 0 up, and the loss of the last, a number "
            f"or a tensor of one: callback(step, loss), got callback({got})"
        ) from None
    return number, value


def _pair(step: Any, loss: Any) -> tuple[Any, Any]:
    return step, loss


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    return repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
