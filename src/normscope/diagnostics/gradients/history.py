"""Gradients at the norms throughout training, measured at regular steps."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import check_arguments
from normscope.diagnostics.gradients.at_norms import NormCall, NormGradients, attach, join_steps, read_call
from normscope.inspection.find import find_norms, within_recurrent
from normscope.inspection.norm_in_model import NormInModel
from normscope.torch_internals import in_backward

EVERY = 50
"""Default interval between measurements, in steps."""


@dataclass(frozen=True, kw_only=True)
class GradientStep:
    """Gradients at all norms in one training step."""

    step: int
    """Index from 0 of the backward pass, among those that reach a norm."""
    norms: tuple[NormGradients, ...]


@check_arguments
@contextmanager
def gradients_through_training(model: nn.Module, *, every: int = EVERY) -> Iterator[list[GradientStep]]:
    """Measure the gradients at every norm in each ``every``-th step of a training loop that runs inside the block.

    A step begins with the first call of a norm, in training mode with gradients enabled, after a gradient has reached
    any norm. All calls of the model or its parts before one backward pass are one step, and gradients that are
    accumulated over several backward passes are several steps. Activations recomputed in the backward pass belong to
    its step. Between measured steps, the only cost is one small hook per norm.

    Warns if the model has norms and none of them was measured.

    Args:
        model: The module that the loop trains, or calls parts of.
        every: Number of steps from one measurement to the next; the first step is measured.

    Yields:
        A list that grows during training; it is complete when the block ends.

    Raises:
        ValueError: If ``every`` is below one.

    Example:
        >>> import torch
        >>> from normscope.diagnostics import gradients_through_training
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))
        >>> with gradients_through_training(model, every=2) as steps:
        ...     for _ in range(3):
        ...         model(torch.randn(32, 4)).square().mean().backward()
        >>> [step.step for step in steps]
        [0, 2]
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    listed = find_norms(model)[0]
    probe = _Probe(model, listed, every)
    handles = [norm.module.register_forward_hook(probe.called) for norm in listed]
    # Afterwards, because a hook that begins a step must run before one that records a call.
    probe.prepare()
    try:
        yield probe.history
    finally:
        probe.hooks.close()
        for handle in handles:
            handle.remove()
    probe.read()
    if listed and not probe.history:
        why = "received a gradient" if probe.step >= 0 else "was called in training mode with gradients enabled"
        warnings.warn(f"none of {len(listed)} norms was measured: no norm {why}", stacklevel=3)


class _Probe:
    """Separates the steps of a training loop, and measures every ``every``-th of them."""

    def __init__(self, model: nn.Module, norms: list[NormInModel], every: int) -> None:
        self.model, self.norms, self.every = model, norms, every
        self.history: list[GradientStep] = []
        self.hooks = ExitStack()
        self.step = -1
        self.arrived = True
        self.note = partial(self.came, self.step)
        self.present: list[NormCall] = []
        self.next: list[NormCall] = []

    def prepare(self) -> None:
        """Register the hooks for the next step, if it is to be measured."""
        self.hooks.close()
        self.next = []
        if (self.step + 1) % self.every == 0:
            for norm in self.norms:
                attach(norm, self.next, self.hooks)

    def called(self, norm: nn.Module, inputs: Any, output: Any) -> None:
        """Handle one call of one norm, before the hooks of a measurement do."""
        if not (torch.is_grad_enabled() and (self.model.training or norm.training)):
            return
        z = output[0] if isinstance(output, tuple) else output
        if not (isinstance(z, Tensor) and z.requires_grad):
            return
        if self.arrived and not in_backward():
            self.begin()
        if not self.arrived and z.grad_fn is not None:
            # A hook on the node costs half as much as one on z.
            z.grad_fn.register_prehook(self.note)

    def begin(self) -> None:
        """End the previous step, and begin the next."""
        self.read()
        self.step += 1
        self.note = partial(self.came, self.step)
        self.arrived = False
        # Calls since then, in evaluation mode, belong to no step.
        self.next.clear()
        self.present = self.next

    def came(self, step: int, gradients: tuple[Tensor | None, ...]) -> None:
        """Handle the first gradient of a step: the next call begins another step."""
        if step == self.step and not self.arrived:
            self.arrived = True
            self.prepare()

    def read(self) -> None:
        """Add the measurements of the present step to the history, if it was measured."""
        calls = join_steps(self.present, within_recurrent(self.model))
        norms = [gradients for call in calls if (gradients := read_call(call)) is not None]
        if norms:
            self.history.append(GradientStep(step=self.step, norms=tuple(norms)))
        self.present = []
