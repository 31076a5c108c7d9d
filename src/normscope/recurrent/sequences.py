"""Sequences as torch's recurrent layers take and return them: padded, packed or a single one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normscope.recurrent.steps import State


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """The input of a recurrent layer, time first and sorted by falling length."""

    x: Tensor
    """``[T, B, I]``, or ``[N, I]`` of a packed sequence."""
    packed: PackedSequence | None
    sizes: tuple[int, ...]
    """Number of sequences in every step."""
    batch: int
    batch_first: bool
    single: bool
    """Whether the input has no batch axis."""

    @classmethod
    def read(cls, module: nn.RNNBase, given: Any) -> "Sequences":
        """Read what a recurrent layer is given.

        Raises:
            ValueError: If it is a tensor of neither two nor three dimensions, or has another dtype than the weights.
            RuntimeError: If the width is not ``input_size``.
        """
        if isinstance(given, PackedSequence):
            module.check_input(given.data, given.batch_sizes)
            sizes = tuple(given.batch_sizes.tolist())
            return cls(x=given.data, packed=given, sizes=sizes, batch=sizes[0], batch_first=False, single=False)
        if given.dim() not in (2, 3):
            raise ValueError(f"{type(module).__name__}: expected input to be 2D or 3D, got {given.dim()}D instead")
        single = given.dim() == 2
        x = given.unsqueeze(1) if single else given.transpose(0, 1) if module.batch_first else given
        module.check_input(x, None)
        steps, batch, _ = x.shape
        return cls(x=x, packed=None, sizes=(batch,) * steps, batch=batch, batch_first=module.batch_first, single=single)

    def steps(self, x: Tensor) -> Sequence[Tensor]:
        """Split per-position values into the steps: ``[B_t, ...]`` each."""
        return x.unbind(0) if self.packed is None else x.split(self.sizes)

    def join(self, steps: Sequence[Tensor], nothing: Tensor) -> Tensor:
        """Join the outputs of all steps again; ``nothing`` is what there is without steps."""
        if not steps:
            return nothing
        return torch.stack(list(steps)) if self.packed is None else torch.cat(list(steps))

    def turn(self, x: Tensor) -> Tensor:
        """Reverse every sequence in time, within its own length; doing so twice changes nothing."""
        if self.packed is None:
            return x.flip(0)
        sizes = self.packed.batch_sizes
        lengths = (sizes[:, None] > torch.arange(self.batch)).sum(0)
        starts = sizes.cumsum(0) - sizes
        rows = [starts[lengths[:size] - 1 - t] + torch.arange(size) for t, size in enumerate(self.sizes)]
        return x.index_select(0, torch.cat(rows).to(x.device))

    def write(self, output: Tensor) -> Any:
        """Return outputs in the form of the input."""
        if self.packed is not None:
            return PackedSequence(
                output, self.packed.batch_sizes, self.packed.sorted_indices, self.packed.unsorted_indices
            )
        return output.squeeze(1) if self.single else output.transpose(0, 1) if self.batch_first else output

    def read_state(self, state: State) -> State:
        """Sort initial states as the sequences: ``[L, B, H]`` each.

        Raises:
            RuntimeError: If the number of dimensions does not fit the input.
        """
        wanted = 2 if self.single else 3
        for one in state:
            if one.dim() != wanted:
                raise RuntimeError(
                    f"initial states of {'a single sequence' if self.single else 'a batch'} have {wanted} dimensions, "
                    f"got {one.dim()}"
                )
        if self.single:
            return tuple(one.unsqueeze(1) for one in state)
        if self.packed is None or self.packed.sorted_indices is None:
            return state
        return tuple(one.index_select(1, self.packed.sorted_indices) for one in state)

    def write_state(self, state: State) -> State:
        """Return final states in the order of the input."""
        if self.single:
            return tuple(one.squeeze(1) for one in state)
        if self.packed is None or self.packed.unsorted_indices is None:
            return state
        return tuple(one.index_select(1, self.packed.unsorted_indices) for one in state)

    def read_resets(self, reset: Any) -> Sequence[Tensor] | None:
        """Read where episodes begin, bool with the axes of the input but the last one.

        Raises:
            TypeError: If it is not of dtype bool, or packed where the input is not.
            ValueError: If its shape is another.
        """
        if reset is None:
            return None
        if isinstance(reset, PackedSequence) != (self.packed is not None):
            raise TypeError("reset must be packed if and only if the input is")
        data = reset.data if isinstance(reset, PackedSequence) else reset
        if self.single and data.dim() == 1:
            data = data.unsqueeze(1)
        elif self.batch_first and data.dim() == 2:
            data = data.transpose(0, 1)
        if data.dtype != torch.bool:
            raise TypeError(f"reset must be of dtype bool, got {data.dtype}")
        if data.shape != self.x.shape[:-1]:
            raise ValueError(f"reset must have the axes of the input but the last one, got {list(data.shape)}")
        return self.steps(data)
