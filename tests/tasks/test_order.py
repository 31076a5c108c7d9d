"""Batches by the number of their step: every example, every symbol, and nothing beyond the end."""

import pytest
import torch
from torch import Tensor

from normscope.tasks.batching import BatchOrder, Draw, StreamOrder


def draws(seed: int) -> Draw:
    return lambda number: torch.Generator().manual_seed(1000 * seed + number)


def test_every_example_is_seen_once_a_pass_and_every_batch_is_full() -> None:
    order = BatchOrder(10, 4, draws(3))
    batches = [order.batch(step) for step in range(15)]
    assert all(len(batch) == 4 for batch in batches)
    stream = torch.cat(batches)
    passes = [stream[start : start + 10].tolist() for start in range(0, 60, 10)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert len({tuple(each) for each in passes}) == len(passes)


def test_every_pass_is_the_permutation_of_its_own_generator() -> None:
    order = BatchOrder(10, 5, draws(3))
    for number in range(3):
        want = torch.randperm(10, generator=draws(3)(number))
        assert torch.equal(torch.cat([order.batch(2 * number), order.batch(2 * number + 1)]), want)


def test_any_batch_can_be_asked_for() -> None:
    forward, fresh = BatchOrder(10, 4, draws(3)), BatchOrder(10, 4, draws(3))
    want = {step: forward.batch(step) for step in range(20)}
    for step in (17, 2, 11, 12):
        assert torch.equal(fresh.batch(step), want[step])
    assert not torch.equal(BatchOrder(10, 4, draws(4)).batch(0), want[0])


@pytest.mark.parametrize("size", [0, 11])
def test_batches_must_fit(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be 1 to 10, the size of the training set, got {size}"):
        BatchOrder(10, size, draws(0))


STREAMS = [(100, 1, 10), (101, 1, 10), (109, 1, 10), (110, 3, 7), (1000, 8, 5), (21, 2, 5), (64, 4, 1)]
"""Length, readers, segment."""


def passes_of(order: StreamOrder, number: int) -> Tensor:
    """Give where the segments of a pass begin, ``[segments, readers]``."""
    return torch.stack([order.batch(step)[0] for step in range(number * order.segments, (number + 1) * order.segments)])


@pytest.mark.parametrize(("length", "readers", "segment"), STREAMS)
def test_no_reader_leaves_its_part_and_every_input_has_its_target(length: int, readers: int, segment: int) -> None:
    order = StreamOrder(length, readers, segment, draws(1))
    part = (length - 1) // readers
    parts = torch.arange(readers) * part
    stream = torch.arange(length)
    for step in range(30 * order.segments):
        starts, _ = order.batch(step)
        assert (starts.dtype, starts.shape) == (torch.int64, (readers,))
        for start, low in zip(starts.tolist(), parts.tolist(), strict=True):
            assert low <= start
            assert start + segment <= low + part
            # The target of the last symbol is the symbol after it.
            assert len(stream[start + 1 : start + 1 + segment]) == segment


@pytest.mark.parametrize(("length", "readers", "segment"), STREAMS)
def test_a_pass_reads_consecutive_segments(length: int, readers: int, segment: int) -> None:
    order = StreamOrder(length, readers, segment, draws(1))
    part = (length - 1) // readers
    for number in range(4):
        starts = passes_of(order, number)
        assert (starts.diff(dim=0) == segment).all()
        assert (starts.diff(dim=1) == part).all()
        # What a pass leaves out at both ends of a part is less than two segments.
        assert part - order.segments * segment < 2 * segment


def test_every_pass_has_an_offset_of_its_own() -> None:
    order = StreamOrder(1000, 4, 10, draws(1))
    first = [int(passes_of(order, number)[0, 0]) for number in range(60)]
    again = StreamOrder(1000, 4, 10, draws(1))
    assert first == [int(passes_of(again, number)[0, 0]) for number in range(60)]
    # Drawn from ten values or more: sixty draws give five or fewer with a chance below 1e-15.
    assert len(set(first)) > 5


@pytest.mark.parametrize(("length", "readers", "segment"), STREAMS)
def test_every_symbol_is_read_in_some_pass(length: int, readers: int, segment: int) -> None:
    order = StreamOrder(length, readers, segment, draws(1))
    part = (length - 1) // readers
    read = set()
    for number in range(200):
        for start in passes_of(order, number).reshape(-1).tolist():
            read |= set(range(start, start + segment + 1))
    # At most a symbol a reader is left over where the parts do not divide the stream.
    assert read == set(range(readers * part + 1))


def test_any_segment_can_be_asked_for() -> None:
    forward, fresh = StreamOrder(300, 3, 7, draws(2)), StreamOrder(300, 3, 7, draws(2))
    want = {step: forward.batch(step) for step in range(60)}
    for step in (47, 3, 22, 21):
        assert torch.equal(fresh.batch(step), want[step])
    other = StreamOrder(300, 3, 7, draws(5))
    assert any(not torch.equal(other.batch(step), want[step]) for step in want)


@pytest.mark.parametrize(
    ("length", "readers", "segment"), [(20, 1, 10), (40, 2, 10), (1, 1, 1), (0, 1, 1), (30, 31, 1)]
)
def test_a_stream_too_short_is_refused(length: int, readers: int, segment: int) -> None:
    words = f"a stream of {length} symbols is too short for {readers} readers of segments of {segment}"
    with pytest.raises(ValueError, match=words):
        StreamOrder(length, readers, segment, draws(0))


def test_the_shortest_stream_is_two_segments_a_reader_and_a_target() -> None:
    order = StreamOrder(41, 2, 10, draws(0))
    assert order.segments == 1
    assert all(int(order.batch(step)[0].max()) + 10 <= 40 for step in range(50))


def test_a_batch_says_which_segment_of_its_pass_it_is() -> None:
    order = StreamOrder(300, 3, 7, draws(2))
    numbers = [order.batch(step)[1].tolist() for step in range(2 * order.segments)]
    assert numbers == [[number] * 3 for number in range(order.segments)] * 2
