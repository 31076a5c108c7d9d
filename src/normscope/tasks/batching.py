"""Random-access batch orders: of equal size, of stream segments, and of sequences by number of tokens.

And the division of a batch among the processes of a run.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Draw = Callable[[int], torch.Generator]
"""Returns the random generator of an epoch, by its number from 0."""


class BatchOrder:
    """Consecutive random permutations of the training set, cut into batches of equal size.

    Every example occurs once per epoch, every batch is full, and every batch can be computed independently.

    Args:
        examples: Number of training examples.
        batch_size: Examples per batch.
        draw: Returns the random generator of an epoch.

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
        """Return the indices of batch ``step``, ``[batch_size]`` int64."""
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
    """Consecutive segments of a long stream, read in parallel, for models with a memory.

    The stream is cut into ``readers`` equal parts; batch ``step`` is the next segment of every part. An epoch ends when
    a part has no complete segment left; every epoch begins at a random offset, so that the boundaries of the segments
    vary and no symbol is always excluded.

    Args:
        length: Number of symbols in the stream.
        readers: Number of parts, which is the number of rows of a batch; at least 1.
        segment: Symbols per segment; at least 1.
        draw: Returns the random generator of an epoch.

    Raises:
        ValueError: If a part is shorter than two segments.
    """

    def __init__(self, length: int, readers: int, segment: int, draw: Draw) -> None:
        # One more symbol than in the inputs: the last symbol is only a target.
        self.part = (length - 1) // readers
        self.segments = self.part // segment - 1
        if self.segments < 1:
            raise ValueError(
                f"a stream of {length} symbols is too short for {readers} readers of segments of {segment}"
            )
        self.readers, self.segment, self.draw = readers, segment, draw

    def batch(self, step: int) -> Tensor:
        """Return ``[2, readers]`` int64: the start of every reader's segment, and the segment's number in its epoch."""
        number, place = divmod(step, self.segments)
        spare = self.part - self.segments * self.segment
        offset = int(torch.randint(spare + 1, (), generator=self.draw(number)))
        begins = torch.arange(self.readers) * self.part + offset + place * self.segment
        return torch.stack([begins, torch.full_like(begins, place)])


# Size, in batches, of the random buckets inside which examples are sorted by length.
_BATCHES_A_BUCKET = 50


class TokenBatches:
    r"""Batches of sequences with at most ``tokens`` tokens per padded batch.

    Every epoch is a random permutation whose buckets, each many batches large, are sorted by length. Batches are filled
    greedily while :math:`B \max_i l_i \le tokens`, and then shuffled. Every example occurs once per epoch; a single
    batch per epoch may be small. Epochs differ in their number of batches, so the first request for a late step
    computes the batches of all earlier epochs; no other state is needed to resume.

    Args:
        lengths: Number of tokens of every example, ``[N]`` integers, at least 1.
        tokens: Maximum number of tokens of a batch, padding included.
        generator_of_pass: Returns the random generator of an epoch, 0, 1, 2, …; the same for every call.

    Raises:
        ValueError: If there are no examples, a length is below 1, or an example alone exceeds ``tokens``; the message
            contains its number and length.
    """

    def __init__(self, lengths: np.ndarray, tokens: int, generator_of_pass: Callable[[int], torch.Generator]) -> None:
        self.lengths = np.asarray(lengths)
        if self.lengths.ndim != 1 or not len(self.lengths) or self.lengths.dtype.kind not in "iu":
            raise ValueError(
                f"expected integer lengths [N], at least one, got {list(self.lengths.shape)} {self.lengths.dtype}"
            )
        self.lengths = self.lengths.astype(np.int64)
        shortest, longest = int(self.lengths.argmin()), int(self.lengths.argmax())
        if self.lengths[shortest] < 1:
            raise ValueError(f"lengths must be 1 or more, example {shortest} has {self.lengths[shortest]}")
        if self.lengths[longest] > tokens:
            raise ValueError(
                f"example {longest} has {self.lengths[longest]} tokens, more than the {tokens} that a batch may have"
            )
        self.tokens = tokens
        self.generator_of_pass = generator_of_pass
        # Cumulative number of batches at the end of every epoch computed so far.
        self._ends: list[int] = []
        self._held: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, step: int) -> Tensor:
        """Return the examples of batch ``step``, ``[B]`` int64.

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        while not self._ends or self._ends[-1] <= step:
            self.count(len(self._ends))
        number = bisect_right(self._ends, step)
        return torch.from_numpy(self._batches(number)[step - self._start(number)])

    def count(self, number: int) -> int:
        """Return the number of batches of an epoch."""
        for each in range(len(self._ends), number + 1):
            self._ends.append(self._start(each) + len(self._batches(each)))
        return self._ends[number] - self._start(number)

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _batches(self, number: int) -> list[np.ndarray]:
        """Return the batches of an epoch; the most recent epoch is cached."""
        if self._held[0] != number:
            generator = self.generator_of_pass(number)
            examples = self._sorted(torch.randperm(len(self.lengths), generator=generator).numpy())
            batches = np.split(examples, _cuts(self.lengths[examples], self.tokens))
            order = torch.randperm(len(batches), generator=generator)
            self._held = (number, [batches[place] for place in order.tolist()])
        return self._held[1]

    def _sorted(self, examples: np.ndarray) -> np.ndarray:
        """Sort by length inside buckets, alternately ascending and descending, so that a batch may span two buckets."""
        bucket = max(1, round(_BATCHES_A_BUCKET * self.tokens / self.lengths.mean()))
        numbers = np.arange(len(examples)) // bucket
        lengths = self.lengths[examples]
        return examples[np.lexsort((np.where(numbers % 2, -lengths, lengths), numbers))]


def _cuts(lengths: np.ndarray, tokens: int) -> list[int]:
    """Return the cuts into maximal batches of at most ``tokens`` padded tokens."""
    cuts, start = [], 0
    while True:
        window = lengths[start : start + tokens // int(lengths[start])]
        padded = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        start += int(np.searchsorted(padded, tokens, side="right"))
        if start == len(lengths):
            return cuts
        cuts.append(start)


@runtime_checkable
class HasTerms(Protocol):
    """A task whose loss is a mean over terms of a batch, so that several processes can share the batch."""

    def terms(self, batch: Any) -> int:
        """Return the number of terms of which the loss of a batch is the mean: of examples, tokens or points."""
        ...


def check_divisible(task: Any, devices: int) -> None:
    """Check that several devices can share the batches of a task.

    Raises:
        ValueError: If they cannot; the message has the task's reason, the attribute ``undivided``.
    """
    name, reason = task.name, getattr(task, "undivided", "")
    if not reason and not isinstance(task, HasTerms):
        reason = "it does not say of how many terms its loss is the mean (a method terms(batch))"
    if devices > 1 and reason:
        raise ValueError(f"{name} cannot be trained on {devices} devices per run: {reason}")


def part_of_batch(batch: Any, part: int, parts: int) -> tuple[Any, int]:
    """Return consecutive examples of a batch and their number: all tensors in it are cut along the first axis.

    Parts differ by one example at most, and together they are the batch. Padding stays as it is.

    Args:
        batch: Tensors and arrays ``[B, ...]`` in tuples, lists, dictionaries and dataclasses; other values are kept.
        part: Which part, from 0.
        parts: Number of parts.

    Raises:
        ValueError: If the first axes differ in size, or there is no tensor.
    """
    sizes: set[int] = set()
    found = _cut(batch, part, parts, sizes)
    if len(sizes) != 1:
        raise ValueError(
            "a batch that processes share has tensors [B, ...] with one B, got "
            + (
                f"first axes of {', '.join(map(str, sorted(sizes)))}"
                if sizes
                else f"no tensor in {type(batch).__name__}"
            )
        )
    size = sizes.pop()
    return found, size * (part + 1) // parts - size * part // parts


def _cut(batch: Any, part: int, parts: int, sizes: set[int]) -> Any:
    if isinstance(batch, PackedSequence):
        raise ValueError("a packed sequence has no axis of examples and cannot be shared by processes")
    if isinstance(batch, Tensor | np.ndarray) and batch.ndim:
        sizes.add(len(batch))
        return batch[len(batch) * part // parts : len(batch) * (part + 1) // parts]
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{one.name: _cut(getattr(batch, one.name), part, parts, sizes) for one in fields(batch)})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_cut(one, part, parts, sizes) for one in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_cut(one, part, parts, sizes) for one in batch)
    return {key: _cut(one, part, parts, sizes) for key, one in batch.items()} if isinstance(batch, dict) else batch


@runtime_checkable
class Stackable(Protocol):
    """A task whose batches are tuples of tensors of equal shapes in every update, and whose loss draws no numbers."""

    def stacked_losses(self, model: Callable[[Tensor], Tensor], batch: Any) -> Tensor:
        """Compute the training loss of every member of a stack, ``[S]``.

        Args:
            model: Maps the inputs of all members, ``[S, B, ...]``, each by its own weights.
            batch: The batches of all members, stacked.
        """
        ...
