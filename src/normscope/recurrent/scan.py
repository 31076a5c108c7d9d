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

    Returns:
        The ``h`` of every step, and the states after the last steps of all sequences.
    """
    keep = _mask(state[0], regularizers.recurrent_dropout) if training else None
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
        new = _zone_out(now, cell(part, now, read), regularizers.zoneout, training=training)
        outputs[t] = new[0]
        state = new if size == state[0].shape[0] else tuple(map(_overwritten, state, new))
    return outputs, state


def _overwritten(old: Tensor, new: Tensor) -> Tensor:
    """Replace the first rows."""
    return torch.cat([new, old[new.shape[0] :]])


def _mask(like: Tensor, p: float) -> Tensor | None:
    """Draw a mask with the mean one."""
    return F.dropout(torch.ones_like(like), p) if p else None


def _zone_out(old: State, new: State, probabilities: Sequence[float], *, training: bool) -> State:
    """Let a share of the entries keep their old value; in evaluation, mix both values in that ratio."""
    mixed = []
    for before, after, p in zip(old, new, probabilities, strict=True):
        if not p:
            mixed.append(after)
        elif training:
            mixed.append(torch.where(torch.bernoulli(torch.full_like(after, p)).bool(), before, after))
        else:
            mixed.append(p * before + (1 - p) * after)
    return tuple(mixed)
