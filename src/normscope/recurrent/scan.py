"""A cell over sequences: steps, layers, directions, packed sequences, resets and dropout of the state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.recurrent.steps import State

Step = Callable[[Tensor, State, Tensor], State]
"""From the part of a step that comes from its input, ``[B, G]``, a state, and the h that is multiplied, to the next
state."""


@dataclass(frozen=True, kw_only=True)
class Regularizers:
    """Dropout of a recurrent state in training.

    Raises:
        ValueError: If a probability is negative, or not below one.

    References:
        Zoneout: Krueger et al. (2016), arXiv:1606.01305. Recurrent (variational) dropout: Gal, Ghahramani (2015),
        arXiv:1512.05287, one mask per sequence on the ``h`` that ``W_h`` multiplies.
    """

    zoneout: tuple[float, ...]
    """Probability that an entry of each part of the state keeps its old value: of h, and of c in an LSTM. In evaluation
    the state is the mean of both values."""
    recurrent_dropout: float
    """Probability that an entry of the h that ``W_h`` multiplies is zero, for a whole sequence."""

    def __post_init__(self) -> None:
        for name, value in (*(("zoneout", p) for p in self.zoneout), ("recurrent_dropout", self.recurrent_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


@dataclass(frozen=True)
class Masks:
    """What was drawn for one layer and direction."""

    dropout: Tensor | None
    """``[B, H]``: factor of the h that ``W_h`` multiplies, with the mean one."""
    held: tuple[Tensor | None, ...]
    """For each part of the state bool ``[N, ...]``: where an entry keeps its old value."""


def draw_masks(
    regularizers: Regularizers, state: State, sizes: Sequence[int], *, reverse: bool, training: bool
) -> Masks:
    """Draw the masks of a layer and direction, step by step in the order of computation; none in evaluation."""
    if not training:
        return Masks(None, (None,) * len(state))
    p = regularizers.recurrent_dropout
    dropout = F.dropout(torch.ones_like(state[0], memory_format=torch.contiguous_format), p) if p else None
    drawn: list[list[Tensor]] = [[] for _ in state]
    for size in reversed(sizes) if reverse else sizes:
        for masks, one, p in zip(drawn, state, regularizers.zoneout, strict=True):
            if p:
                masks.append(torch.bernoulli(torch.full_like(one[:size], p)).bool())
    return Masks(dropout, tuple(torch.cat(masks[:: -1 if reverse else 1]) if masks else None for masks in drawn))


def scan(
    step: Step | Sequence[Step],
    parts: Sequence[Tensor],
    state: State,
    *,
    reverse: bool,
    resets: Sequence[Tensor] | None,
    start: State,
    regularizers: Regularizers,
    training: bool,
    masks: Masks | None = None,
) -> tuple[list[Tensor], State]:
    """Run a cell over a sequence in one direction.

    Args:
        step: The cell, or a cell for every step.
        parts: Per step ``[B_t, G]``; sequences are sorted by falling length, so that the first ``B_t`` are in step t.
        state: Initial states of all sequences.
        reverse: Whether to run from the last step of every sequence to the first one.
        resets: Per step bool ``[B_t]``: where a new episode begins with this step.
        start: The state that an episode begins with, of one sequence: broadcast against ``state``.
        regularizers: Dropout of the state.
        training: Whether the masks are drawn.
        masks: What was drawn before; drawn here if it is None.

    Returns:
        The ``h`` of every step, and the states after the last steps of all sequences.
    """
    sizes = [part.shape[0] for part in parts]
    if masks is None:
        masks = draw_masks(regularizers, state, sizes, reverse=reverse, training=training)
    keep = masks.dropout
    held = [None if one is None else one.split(sizes) for one in masks.held]
    outputs: list[Tensor] = [state[0]] * len(parts)
    for t in reversed(range(len(parts))) if reverse else range(len(parts)):
        part = parts[t]
        size = part.shape[0]
        now = tuple(one[:size] for one in state)
        # Backwards, an episode ends where the next step, which was computed before, began another.
        at = t + 1 if reverse else t
        if resets is not None and at < len(parts):
            fresh = F.pad(resets[at], (0, size - resets[at].shape[0]))[:, None]
            now = tuple(torch.where(fresh, first, one) for first, one in zip(start, now, strict=True))
        read = now[0] if keep is None else now[0] * keep[:size]
        cell = step if callable(step) else step[t]
        masks_now = [None if one is None else one[t] for one in held]
        new = _zone_out(now, cell(part, now, read), regularizers.zoneout, masks_now)
        outputs[t] = new[0]
        state = new if size == state[0].shape[0] else tuple(map(_overwritten, state, new))
    return outputs, state


def _overwritten(old: Tensor, new: Tensor) -> Tensor:
    """Replace the first rows."""
    return torch.cat([new, old[new.shape[0] :]])


def _zone_out(old: State, new: State, probabilities: Sequence[float], held: Sequence[Tensor | None]) -> State:
    """Let the entries that are held keep their old value; without a mask, mix both values in that ratio."""
    mixed = []
    for before, after, p, mask in zip(old, new, probabilities, held, strict=True):
        if mask is not None:
            mixed.append(torch.where(mask, before, after))
        else:
            mixed.append(p * before + (1 - p) * after if p else after)
    return tuple(mixed)
