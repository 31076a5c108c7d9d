"""The gradients at the norms through training, measured now and then."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.diagnostics.depth.watch import in_backward
from normscope.diagnostics.gradients.at_norms import NormCall, NormGradients, attach, read_call
from normscope.inspection.norms_in import NormIn, find_norms

EVERY = 50
"""Default cadence, in steps."""


@dataclass(frozen=True, kw_only=True)
class GradientStep:
    """All norms in one step of training."""

    step: int
    """Counted from 0, in backward passes that reach a norm, with the forward calls before them."""
    norms: tuple[NormGradients, ...]


@contextmanager
def gradients_through_training(model: nn.Module, *, every: int = EVERY) -> Iterator[list[GradientStep]]:
    """Measure the gradients at every norm in each ``every``-th step of a training loop that runs inside.

    A step begins where a norm is called in training mode, with gradients on, for the first time since a gradient came
    to one: however often the loop calls the model, or parts of it, for one backward pass, that is one step. Gradients
    that are accumulated over several backward passes before an update are as many steps. Activations that are computed
    again in the backward pass belong to its step. Between measured steps one small hook on every norm is all there is.

    Args:
        model: The module that the loop trains, or that it calls parts of.
        every: Steps from one measurement to the next; the first step is measured.

    Yields:
        A list that grows through training; the last measured step is in it when the block ends. It warns where a model
        has norms and none was measured.

    Raises:
        ValueError: If ``every`` is below one.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    listed = find_norms(model)[0]
    probe = _Probe(model, listed, every)
    handles = [norm.module.register_forward_hook(probe.called) for norm in listed]
    # Behind those: a hook that begins a step stands before one that notes a call.
    probe.prepare()
    try:
        yield probe.history
    finally:
        probe.hooks.close()
        for handle in handles:
            handle.remove()
    probe.read()
    if listed and not probe.history:
        why = "a gradient came to any" if probe.step >= 0 else "any was called in training mode with gradients on"
        warnings.warn(f"no norm of {len(listed)} was measured: not one step in which {why}", stacklevel=3)


class _Probe:
    """Tells one step from the next, and measures those whose turn it is."""

    def __init__(self, model: nn.Module, norms: list[NormIn], every: int) -> None:
        self.model, self.norms, self.every = model, norms, every
        self.history: list[GradientStep] = []
        self.hooks = ExitStack()
        self.step = -1
        self.arrived = True
        self.note = partial(self.came, self.step)
        self.present: list[NormCall] = []
        self.next: list[NormCall] = []

    def prepare(self) -> None:
        """Hook the norms for the step after this one, if it is to be measured."""
        self.hooks.close()
        self.next = []
        if (self.step + 1) % self.every == 0:
            for norm in self.norms:
                attach(norm, self.next, self.hooks)

    def called(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        """Look at one call of one norm, before the hooks of a measurement do."""
        if not (torch.is_grad_enabled() and (self.model.training or norm.training)):
            return
        z = output[0] if isinstance(output, tuple) else output
        if not (isinstance(z, Tensor) and z.requires_grad):
            return
        if self.arrived and not in_backward():
            self.begin()
        if not self.arrived and z.grad_fn is not None:
            # A hook on its node costs half of one on z.
            z.grad_fn.register_prehook(self.note)

    def begin(self) -> None:
        """End the step before, and begin one."""
        self.read()
        self.step += 1
        self.note = partial(self.came, self.step)
        self.arrived = False
        # What was called since, in evaluation, is of no step.
        self.next.clear()
        self.present = self.next

    def came(self, step: int, gradients: tuple[Tensor | None, ...]) -> None:
        """Note the first gradient of a step: the next call is that of another."""
        if step == self.step and not self.arrived:
            self.arrived = True
            self.prepare()

    def read(self) -> None:
        """Return the readings of the calls of the present step, if it was measured."""
        told = [one for call in self.present if (one := read_call(call)) is not None]
        if told:
            self.history.append(GradientStep(step=self.step, norms=tuple(told)))
        self.present = []
