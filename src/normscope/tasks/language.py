"""Language models of bytes: a Transformer-XL that predicts the next one, judged in bits per character."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import ByteSplits, load_bytes
from normscope.models import TransformerXL
from normscope.tasks.batching import Draw, StreamOrder
from normscope.tasks.recipe import Recipe
from normscope.tasks.sentences import ENCODER_PLACEMENTS, SOURCE
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published, check_blind

VOCABULARY = 256
"""Every byte is a symbol, whether it occurs or not: enwik8's "character" is a byte in every publication, too."""

VALID_BYTES = 100_000
"""What a look at the validation part reads: its first bytes, enough for a standard error of about 0.01 bits."""


@dataclass(frozen=True, kw_only=True)
class StreamSize:
    """How large the network is, and how it reads."""

    width: int
    heads: int
    feed_forward: int
    layers: int
    dropout: float
    segment: int
    """Bytes of a training segment; a batch has one of every reader."""
    memory: int
    """States of every layer that are remembered in training."""
    test_segment: int
    """Likewise in testing, where a shorter segment sees more context."""
    test_memory: int


@dataclass(frozen=True, kw_only=True)
class Streams:
    """A text in three consecutive parts; ``test`` is empty where a split may not touch it."""

    train: np.ndarray
    """``[N]`` uint8."""
    valid: np.ndarray
    test: np.ndarray
    before_valid: np.ndarray
    """The last bytes before the validation part, which its first bytes are predicted from."""
    before_test: np.ndarray
    size: StreamSize
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing is left out."""
        return {}

    @property
    def train_examples(self) -> int:
        """Bytes of the training part."""
        return len(self.train)

    def order(self, batch_size: int, draw: Draw) -> StreamOrder:
        """Segments of so many bytes together, one of every reader.

        Raises:
            ValueError: If the batch is no whole number of segments, or the text is too short for it.
        """
        readers, rest = divmod(batch_size, self.size.segment)
        if rest or not readers:
            raise ValueError(
                f"batch_size must be a multiple of the segment, {self.size.segment} bytes, got {batch_size}"
            )
        return StreamOrder(len(self.train), readers, self.size.segment, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, bool]:
        """Give ``[B, segment + 1]`` int64, and whether the streams begin anew here."""
        begins, numbers = indices
        places = begins[:, None].numpy() + np.arange(self.size.segment + 1)
        first = bool(numbers[0] == 0)
        return torch.from_numpy(self.train[places].astype(np.int64)).to(self.device), first


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """Predict the next byte by cross entropy; the metric is bits per character over the whole test part."""

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    datasets: tuple[str, ...]
    """Keys of the data sets it reads."""
    read: Callable[[], ByteSplits]
    """Reads the original files."""
    sizes: Mapping[str, StreamSize]
    """Of the network and of segments, by preset."""
    presets: Mapping[str, Recipe]
    """How it is trained."""
    margin: float
    """Smallest difference worth having, in bits per character."""
    regime: str
    """What claims are limited to."""
    placements: tuple[str, ...]
    """Placements that the network can take, its default first."""
    published: tuple[Published, ...] = ()
    """What others printed for it."""
    revision: int = 1
    """Raised whenever numbers change."""

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        return Metric(name="test bits per character", unit="bpc", higher_is_better=False, aggregate="ratio")

    @property
    def valid_metric(self) -> Metric:
        """The same over the first bytes of the validation part."""
        return Metric(name="bits per character", unit="bpc", higher_is_better=False, aggregate="ratio")

    @property
    def batch_unit(self) -> str:
        """Batches are of so many bytes."""
        return "bytes"

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> TransformerXL:
        """Build the network of a preset with any weights.

        Raises:
            ValueError: If the norm looks at other positions, see :func:`normscope.tasks.task.check_blind`.
        """
        size = self.sizes[preset]
        model = TransformerXL(
            vocabulary=VOCABULARY,
            width=size.width,
            heads=size.heads,
            feed_forward=size.feed_forward,
            layers=size.layers,
            batch=self.presets[preset].batch_size // size.segment,
            memory_length=size.memory,
            dropout=size.dropout,
            # Testing has a longer memory: beyond the distances that training has seen all look the same.
            clamp_length=size.segment + size.memory - 1,
            stack=partial(placement.stack, norm=norm),
        )
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: str, preset: str) -> Streams:
        """Read the text.

        Args:
            device: Where batches go.
            split: ``"study"`` for the usual parts; ``"tune"`` for the training part alone, its last twentieth held out.
            preset: Decides how the text is cut.

        Raises:
            ValueError: If ``split`` is neither.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
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

    def loss(self, model: TransformerXL, batch: tuple[Tensor, bool]) -> Tensor:
        """Compute the mean cross entropy of a segment in nats, a scalar; the model's memory goes on."""
        symbols, first = batch
        if first:
            model.forget()
        logits = model.advance(symbols[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), symbols[:, 1:].flatten())

    def evaluate(self, model: TransformerXL, data: Streams, part: str) -> tuple[float, np.ndarray]:
        """Give the mean cross entropy in nats, and bits and bytes of every block of a part, ``[E, 2]`` float32.

        Every byte is predicted once, from at least ``test_memory`` bytes before it; several readers share the text,
        and each reads what stands before its share first, without being judged.
        """
        text = {"valid": data.valid[:VALID_BYTES], "test": data.test}[part]
        before = {"valid": data.before_valid, "test": data.before_test}[part]
        readers = max(1, min(32, len(text) // 4096))
        nats = _nats(model, text, before, readers, data.size, data.device)
        blocks = [block for share in nats for block in np.array_split(share, max(1, len(share) // 512))]
        scores = np.array([(block.sum() / math.log(2), len(block)) for block in blocks], dtype=np.float32)
        return float(np.concatenate(nats).mean()), scores


def _nats(
    model: TransformerXL, text: np.ndarray, before: np.ndarray, readers: int, size: StreamSize, device: torch.device
) -> list[np.ndarray]:
    """Give minus the logarithm of every byte's probability, a float64 array for every reader's share of the text."""
    context = len(before)
    whole = np.concatenate([before, text]).astype(np.int64)
    ends = np.linspace(0, len(text), readers + 1, dtype=np.int64)
    longest = int(np.diff(ends).max())
    # Each row is a share with its context before it; shorter shares are filled up at the end and not read there.
    rows = np.zeros((readers, context + longest), dtype=np.int64)
    for row, start, end in zip(rows, ends[:-1], ends[1:], strict=True):
        row[: context + end - start] = whole[start : context + end]
    found = np.concatenate(list(_read_rows(model, torch.from_numpy(rows).to(device), size)), axis=1)[:, context - 1 :]
    return [share[: end - start] for share, start, end in zip(found, ends[:-1], ends[1:], strict=True)]


def _read_rows(model: TransformerXL, rows: Tensor, size: StreamSize) -> Iterator[np.ndarray]:
    """Predict every symbol of the rows but the first from those before it, ``[B, segment]`` at a time."""
    memory = model.empty_memory(len(rows), size.test_memory)
    for start in range(0, rows.shape[1] - 1, size.test_segment):
        symbols = rows[:, start : start + size.test_segment + 1]
        logits, memory = model(symbols[:, :-1], memory)
        nats = F.cross_entropy(logits.float().transpose(1, 2), symbols[:, 1:], reduction="none")
        yield nats.double().cpu().numpy()


@cache
def _read(read: Callable[[], ByteSplits]) -> ByteSplits:
    """Read once a process: a worker computes many runs."""
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
