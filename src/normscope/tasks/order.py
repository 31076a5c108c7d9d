"""Which training examples make which batch, asked for by the number of the step: a resumed run needs nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[int], torch.Generator]
"""Gives the random source of a pass over the data, by its number from 0."""


class BatchOrder:
    """One random permutation of the set after another, cut into equal batches.

    Every example is seen once in each pass, every batch is full, and batch ``step`` can be asked for at any time.

    Args:
        examples: Size of the training set.
        batch_size: Examples a batch.
        draw: Source of the permutations.

    Raises:
        ValueError: If the batch is larger than the set.
    """

    def __init__(self, examples: int, batch_size: int, draw: Draw) -> None:
        if not 1 <= batch_size <= examples:
            raise ValueError(f"batch_size must be 1 to {examples}, the size of the training set, got {batch_size}")
        self.examples = examples
        self.batch_size = batch_size
        self.draw = draw
        self._passes: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Give the indices of batch ``step``, ``[batch_size]`` int64."""
        start = step * self.batch_size
        number, offset = divmod(start, self.examples)
        indices = self._pass(number)[offset : offset + self.batch_size]
        missing = self.batch_size - len(indices)
        return torch.cat([indices, self._pass(number + 1)[:missing]]) if missing else indices

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            self._passes = {key: order for key, order in self._passes.items() if key == number - 1}
            self._passes[number] = torch.randperm(self.examples, generator=self.draw(number))
        return self._passes[number]


class StreamOrder:
    """Consecutive segments of a long stream, read by several readers at once, for models that remember.

    The stream is cut into ``readers`` equal parts; batch ``step`` is the next segment of every part. A pass ends when
    a part has no whole segment left; each pass begins at an offset of its own, so that segments fall differently and
    no symbol is left out for ever.

    Args:
        length: Symbols of the stream.
        readers: How many parts, the rows of a batch; at least 1.
        segment: Symbols a segment; at least 1.
        draw: Source of the offsets.

    Raises:
        ValueError: If a part is shorter than two segments.
    """

    def __init__(self, length: int, readers: int, segment: int, draw: Draw) -> None:
        # One symbol more than the segments hold: the last one is a target only.
        self.part = (length - 1) // readers
        self.segments = self.part // segment - 1
        if self.segments < 1:
            raise ValueError(
                f"a stream of {length} symbols is too short for {readers} readers of segments of {segment}"
            )
        self.readers, self.segment, self.draw = readers, segment, draw

    def batch(self, step: int) -> Tensor:
        """Give ``[2, readers]`` int64: where every reader's segment begins, and the segment's number in its pass."""
        number, place = divmod(step, self.segments)
        spare = self.part - self.segments * self.segment
        offset = int(torch.randint(spare + 1, (), generator=self.draw(number)))
        begins = torch.arange(self.readers) * self.part + offset + place * self.segment
        return torch.stack([begins, torch.full_like(begins, place)])
