"""The gradients at the norms through training, measured now and then."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normscope.probes.norm_gradients import Call, NormGradients, attach, read_call
from normscope.probes.norms_in import find_norms

EVERY = 20
"""Default cadence, in steps."""


@dataclass(frozen=True, kw_only=True)
class GradientStep:
    """All norms in one step of training."""

    step: int
    """Counted from 0, in forward passes of the model that are trained on."""
    norms: tuple[NormGradients, ...]


@contextmanager
def gradients_through_training(model: nn.Module, *, every: int = EVERY) -> Iterator[list[GradientStep]]:
    """Measure the gradients at every norm in each ``every``-th step of a training loop that runs inside.

    A step is a forward pass of the model in training mode with gradients on. Between measured steps one hook on the
    model is all there is.

    Args:
        model: The module that the loop calls.
        every: Steps from one measurement to the next; the first step is measured.

    Yields:
        A list that grows through training; the last measured step is in it when the block ends.

    Raises:
        ValueError: If ``every`` is below one.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    listed = find_norms(model)[0]
    history: list[GradientStep] = []
    step, open_step = -1, -1
    calls: list[Call] = []
    hooks = ExitStack()

    def read() -> None:
        told = [one for call in calls if (one := read_call(call)) is not None]
        if told:
            history.append(GradientStep(step=open_step, norms=tuple(told)))
        calls.clear()

    def before(module: nn.Module, inputs: Any) -> None:
        nonlocal step, open_step
        if not (module.training and torch.is_grad_enabled()):
            return
        step += 1
        if calls:
            read()
        if step % every == 0:
            open_step = step
            for norm in listed:
                attach(norm, calls, hooks)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        hooks.close()

    handles = [model.register_forward_pre_hook(before), model.register_forward_hook(after, always_call=True)]
    try:
        yield history
    finally:
        hooks.close()
        for handle in handles:
            handle.remove()
    read()
