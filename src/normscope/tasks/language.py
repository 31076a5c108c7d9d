"""Byte-level language modelling, evaluated in bits per character, and the tasks with a Transformer-XL."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normscope.data import ByteSplits, load_bytes
from normscope.models import TransformerXL
from normscope.tasks.batching import Draw, StreamOrder
from normscope.tasks.recipe import Recipe
from normscope.tasks.sentences import ENCODER_PLACEMENTS, SOURCE
from normscope.tasks.task import (
    DATA_SETS_KEPT,
    BaseTask,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Published,
    Split,
    check_blind,
    check_split,
)

VOCABULARY = 256
"""All 256 bytes are symbols; the "characters" of enwik8 in the literature are bytes, too."""

VALID_BYTES = 100_000
"""Number of bytes of an evaluation on validation data, enough for a standard error of about 0.01 bits."""


@dataclass(frozen=True, kw_only=True)
class SegmentSize:
    """Sizes of the segments that a network reads, and of the network in the form that its builder takes."""

    width: int
    layers: int
    segment: int
    """Bytes per training segment; a batch contains one segment per reader."""
    test_segment: int
    """Bytes per segment in evaluation; a shorter segment sees more context."""
    test_memory: int
    """Number of bytes that a reader reads before its share in evaluation, and of a Transformer-XL's states."""


@dataclass(frozen=True, kw_only=True)
class StreamSize(SegmentSize):
    """Sizes of a Transformer-XL and of its segments."""

    heads: int
    feed_forward: int
    dropout: float
    memory: int
    """Number of remembered states per layer in training."""


def transformer_xl(size: StreamSize, batch: int, norm: NormFactory, placement: PlacementLike) -> TransformerXL:
    """Build a Transformer-XL with arbitrary weights; ``batch`` is the number of streams read in parallel."""
    return TransformerXL(
        vocabulary=VOCABULARY,
        width=size.width,
        heads=size.heads,
        feed_forward=size.feed_forward,
        layers=size.layers,
        batch=batch,
        memory_length=size.memory,
        dropout=size.dropout,
        # The memory is longer in evaluation: distances beyond those of training are clamped.
        clamp_length=size.segment + size.memory - 1,
        stack=partial(placement.stack, norm=norm),
    )


@dataclass(frozen=True, kw_only=True)
class Streams:
    """A text in three consecutive parts; ``test`` is empty in the split ``"tune"``."""

    train: np.ndarray
    """``[N]`` uint8."""
    valid: np.ndarray
    test: np.ndarray
    before_valid: np.ndarray
    """The bytes before the validation part, the context of its first predictions."""
    before_test: np.ndarray
    size: SegmentSize
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: no example is excluded."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of bytes of the training part."""
        return len(self.train)

    def order(self, batch_size: int, draw: Draw) -> StreamOrder:
        """Return the order of batches of ``batch_size`` bytes, one segment per reader.

        Raises:
            ValueError: If the batch size is not a multiple of the segment, or the text is too short.
        """
        readers, rest = divmod(batch_size, self.size.segment)
        if rest or not readers:
            raise ValueError(
                f"batch_size must be a multiple of the segment, {self.size.segment} bytes, got {batch_size}"
            )
        return StreamOrder(len(self.train), readers, self.size.segment, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, bool]:
        """Return symbols ``[B, segment + 1]`` int64, and whether an epoch begins with them."""
        begins, numbers = indices
        places = begins[:, None].numpy() + np.arange(self.size.segment + 1)
        first = bool(numbers[0] == 0)
        return torch.from_numpy(self.train[places].astype(np.int64)).to(self.device), first


@dataclass(frozen=True, kw_only=True)
class LanguageModel(BaseTask):
    """Next-byte prediction with cross entropy; the metric is bits per character over the test part."""

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[[], ByteSplits]
    """Reads the original files."""
    sizes: Mapping[str, SegmentSize]
    """Sizes of the network and of segments, by preset."""
    build: Callable[[Any, int, NormFactory, PlacementLike], nn.Module] = transformer_xl
    """Builds the network of a size for a number of streams; it has a memory, as ``TransformerXL`` has."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    placements: tuple[str, ...]
    """Placements the network supports, default first."""

    batch_unit = "bytes"

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return Metric(name="test bits per character", unit="bpc", higher_is_better=False, aggregate="ratio")

    @property
    def valid_metric(self) -> Metric:
        """Metric of the validation part: the same, over its first bytes."""
        return Metric(name="bits per character", unit="bpc", higher_is_better=False, aggregate="ratio")

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> nn.Module:
        """Build the network of a preset with arbitrary weights.

        Raises:
            ValueError: If the norm mixes positions, see :func:`normscope.tasks.task.check_blind`.
        """
        size = self.sizes[preset]
        model = self.build(size, self.presets[preset].batch_size // size.segment, norm, placement)
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: Split, preset: str) -> Streams:
        """Read the text.

        Args:
            device: Device of the batches.
            split: ``"study"`` for the usual parts; ``"tune"`` for the training part alone, its last twentieth held out.
            preset: Determines the length of the segments.

        Raises:
            ValueError: If ``split`` is not one of these.
        """
        check_split(split)
        text, size = _read(self.read), self.sizes[preset]
        train, valid, test = text.train, text.valid, text.test
        if split == "tune":
            cut = len(train) * 19 // 20
            train, valid, test = train[:cut], train[cut:], test[:0]
        context = size.test_memory + 1
        return Streams(
            train=train,
            valid=valid,
            test=test,
            before_valid=train[-context:],
            before_test=valid[-context:],
            size=size,
            device=device,
            hashes=text.hashes,
        )

    undivided = "its model carries the memory of all streams of a batch from update to update"

    def loss(self, model: Any, batch: tuple[Tensor, bool]) -> Tensor:
        """Compute the mean cross entropy of a segment in nats, a scalar, and advance the model's memory."""
        symbols, first = batch
        if first:
            model.forget()
        logits = model.advance(symbols[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), symbols[:, 1:].flatten())

    def evaluate(self, model: Any, data: Streams, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean cross entropy in nats, and bits and bytes per block, ``[E, 2]`` float32.

        Every byte is predicted once, from at least ``test_memory`` preceding bytes. The text is divided among parallel
        readers; each reads the bytes before its share first, without a score.
        """
        text = {"valid": data.valid[:VALID_BYTES], "test": data.test}[part]
        before = {"valid": data.before_valid, "test": data.before_test}[part]
        readers = max(1, min(32, len(text) // 4096))
        nats = _nats(model, text, before, readers, data.size, data.device)
        blocks = [block for share in nats for block in np.array_split(share, max(1, len(share) // 512))]
        scores = np.array([(block.sum() / math.log(2), len(block)) for block in blocks], dtype=np.float32)
        return float(np.concatenate(nats).mean()), scores


def _nats(
    model: Any, text: np.ndarray, before: np.ndarray, readers: int, size: SegmentSize, device: torch.device
) -> list[np.ndarray]:
    """Return the negative log-likelihood of every byte in nats, one float64 array per reader."""
    context = len(before)
    whole = np.concatenate([before, text]).astype(np.int64)
    ends = np.linspace(0, len(text), readers + 1, dtype=np.int64)
    longest = int(np.diff(ends).max())
    # Each row is a reader's context and share; shorter shares are padded at the end.
    rows = np.zeros((readers, context + longest), dtype=np.int64)
    for row, start, end in zip(rows, ends[:-1], ends[1:], strict=True):
        row[: context + end - start] = whole[start : context + end]
    found = np.concatenate(list(_read_rows(model, torch.from_numpy(rows).to(device), size)), axis=1)[:, context - 1 :]
    return [share[: end - start] for share, start, end in zip(found, ends[:-1], ends[1:], strict=True)]


def _read_rows(model: Any, rows: Tensor, size: SegmentSize) -> Iterator[np.ndarray]:
    """Yield the negative log-likelihoods of all symbols but the first of each row, ``[B, segment]`` at a time."""
    memory = model.empty_memory(len(rows), size.test_memory)
    for start in range(0, rows.shape[1] - 1, size.test_segment):
        symbols = rows[:, start : start + size.test_segment + 1]
        logits, memory = model(symbols[:, :-1], memory)
        nats = F.cross_entropy(logits.float().transpose(1, 2), symbols[:, 1:], reduction="none")
        yield nats.double().cpu().numpy()


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[[], ByteSplits]) -> ByteSplits:
    """Read the data; cached, since a worker process computes many runs."""
    return read()


SIZES = {
    "small": StreamSize(
        width=128,
        heads=4,
        feed_forward=512,
        layers=4,
        dropout=0.0,
        segment=64,
        memory=64,
        test_segment=64,
        test_memory=128,
    ),
    # The public code of Dai et al. (2019) for enwik8, which Xu et al. build on.
    "full": StreamSize(
        width=512,
        heads=8,
        feed_forward=2048,
        layers=12,
        dropout=0.1,
        segment=512,
        memory=512,
        test_segment=80,
        test_memory=2100,
    ),
}

PRESETS = {
    "small": Recipe(steps=2000, batch_size=1024, learning_rate=3e-3, clip=0.25, warmup=100),
    "full": Recipe(steps=20_000, batch_size=22 * 512, learning_rate=2.5e-4, clip=0.25),
}

ENWIK8 = LanguageModel(
    name="enwik8",
    description="the first 100 million bytes of English Wikipedia XML of 2006; Transformer-XL",
    datasets=("enwik8",),
    read=partial(load_bytes, "enwik8"),
    sizes=SIZES,
    presets={**PRESETS, "full": Recipe(steps=400_000, batch_size=22 * 512, learning_rate=2.5e-4, clip=0.25)},
    margin=0.01,
    regime="a Transformer-XL on enwik8, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, Enwiki8",
            rows={
                "none": 1.04,
                "layer_norm": 1.07,
                "layer_norm_simple": 1.07,
                "detach_norm": 1.12,
                "ada_norm": 1.07,
            },
            note="no seeds and no spread printed; width, rate, batch, steps and AdaNorm's C not printed",
        ),
    ),
)

ENWIKI_SMALL = LanguageModel(
    name="enwiki_small",
    description="6.1 MB of English Wikipedia XML of 2016, a stand-in for enwik8; Transformer-XL",
    datasets=("enwiki-xml-small",),
    read=partial(load_bytes, "enwiki-xml-small"),
    sizes=SIZES,
    presets=PRESETS,
    margin=0.02,
    regime="a Transformer-XL on 5.5 MB of Wikipedia XML, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
)

TINY_SHAKESPEARE = LanguageModel(
    name="tiny_shakespeare",
    description="1.1 MB of Shakespeare, to try things out; Transformer-XL",
    datasets=("text-small",),
    read=partial(load_bytes, "text-small"),
    sizes=SIZES,
    presets=PRESETS,
    margin=0.02,
    regime="a Transformer-XL on 1.0 MB of Shakespeare, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
)
