"""Sentence classification: sentiment by a transformer encoder of four layers, from scratch (Xu et al. 2019)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import LabelledText, LabelledTextSplits
from normscope.models import TextClassifier
from normscope.tasks.order import Draw
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published, check_blind
from normscope.tasks.token_batches import TokenBatches
from normscope.tasks.word_vocabulary import PAD, Words, learn_words

EVALUATION_BATCH = 128
"""Sentences a forward pass outside training, sorted by length; it changes no number beyond rounding."""

MAX_WORDS = 64
"""A longer sentence would be cut; RT and SST-5 have none."""

AT_LEAST = 2
"""Times that a word must occur in the training part to have a number of its own."""


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """How large the classifier is. The paper prints the number of layers only; the rest is our choice."""

    width: int
    heads: int
    feed_forward: int
    dropout: float
    layers: int = 4


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Labelled sentences on a device."""

    x: Tensor
    """``[N, T]`` int64, padded with 0."""
    y: Tensor
    """``[N]`` int64."""
    lengths: np.ndarray
    """Words of every sentence, ``[N]`` int64."""


@dataclass(frozen=True, kw_only=True)
class SentenceSplits:
    """The three parts of a set of sentences; ``test`` is empty where a split may not touch it."""

    train: Sentences
    valid: Sentences
    test: Sentences
    words: Words
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing is left out."""
        return {}

    @property
    def train_examples(self) -> int:
        """Size of the training set."""
        return len(self.train.y)

    def order(self, batch_size: int, draw: Draw) -> TokenBatches:
        """Batches of so many padded words, each of sentences of about one length."""
        return TokenBatches(self.train.lengths, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Give words ``[B, T]``, T the longest of them, and labels ``[B]``."""
        return _cut(self.train, indices)


@dataclass(frozen=True, kw_only=True)
class SentenceClassification:
    """Classify sentences by cross entropy; the metric is the share of test sentences that are right, in per cent.

    Words are lower-cased; those that occur once in the training part are the unknown word.
    """

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    datasets: tuple[str, ...]
    """Keys of the data sets it reads."""
    read: Callable[[], LabelledTextSplits]
    """Reads the original files."""
    classes: int
    """How many labels there are."""
    sizes: Mapping[str, EncoderSize]
    """Of the network, by preset."""
    presets: Mapping[str, Recipe]
    """How it is trained."""
    margin: float
    """Smallest difference worth having, in points of per cent."""
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
        return Metric(name="test accuracy", unit="%", higher_is_better=True)

    @property
    def valid_metric(self) -> Metric:
        """The same on the validation sentences."""
        return self.metric

    @property
    def batch_unit(self) -> str:
        """Batches are of about so many words."""
        return "padded words"

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> TextClassifier:
        """Build the network of a preset with any weights.

        Raises:
            ValueError: If the norm looks at other positions, see :func:`normscope.tasks.task.check_blind`.
        """
        size = self.sizes[preset]
        model = TextClassifier(
            vocabulary=_words(self.read).size,
            width=size.width,
            heads=size.heads,
            feed_forward=size.feed_forward,
            layers=size.layers,
            classes=self.classes,
            dropout=size.dropout,
            max_length=MAX_WORDS,
            stack=partial(placement.stack, norm=norm),
        )
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: str, preset: str) -> SentenceSplits:
        """Read the data onto a device.

        Args:
            device: Where the tensors go.
            split: ``"study"`` for the set's own parts; ``"tune"`` for the training part alone, every tenth sentence
                held out: what is chosen there has seen neither the validation nor the test part of the study. The
                vocabulary is that of the whole training part in both.
            preset: The data are the same in every preset.

        Raises:
            ValueError: If ``split`` is neither.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
        return _load(self.read, device, split)

    def loss(self, model: TextClassifier, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def evaluate(self, model: TextClassifier, data: SentenceSplits, part: str) -> tuple[float, np.ndarray]:
        """Give the mean cross entropy in nats, and 100 or 0 for every sentence of a part, ``[N]`` float32."""
        sentences = {"valid": data.valid, "test": data.test}[part]
        by_length = torch.from_numpy(np.argsort(sentences.lengths, kind="stable"))
        losses = torch.zeros(len(by_length), dtype=torch.float64)
        right = torch.zeros(len(by_length), dtype=torch.float32)
        for indices in by_length.split(EVALUATION_BATCH):
            x, y = _cut(sentences, indices)
            logits = model(x).float()
            losses[indices] = F.cross_entropy(logits, y, reduction="none").cpu().double()
            right[indices] = (logits.argmax(-1) == y).cpu().float() * 100
        return losses.mean().item(), right.numpy()


def _cut(sentences: Sentences, indices: Tensor) -> tuple[Tensor, Tensor]:
    longest = int(sentences.lengths[indices.numpy()].max())
    indices = indices.to(sentences.y.device)
    return sentences.x[indices, :longest], sentences.y[indices]


@cache
def _read(read: Callable[[], LabelledTextSplits]) -> LabelledTextSplits:
    """Read once a process: a worker computes many runs."""
    return read()


@cache
def _words(read: Callable[[], LabelledTextSplits]) -> Words:
    return learn_words(_read(read).train.sentences, at_least=AT_LEAST)


@cache
def _load(read: Callable[[], LabelledTextSplits], device: torch.device, split: str) -> SentenceSplits:
    texts, words = _read(read), _words(read)
    train, valid, test = (_encode(part, words, device) for part in (texts.train, texts.valid, texts.test))
    if split == "tune":
        held = torch.arange(len(train.y)) % 10 == 9
        test = _chosen(test, torch.zeros(len(test.y), dtype=torch.bool))
        train, valid = _chosen(train, ~held), _chosen(train, held)
    return SentenceSplits(train=train, valid=valid, test=test, words=words, hashes=texts.hashes)


def _encode(part: LabelledText, words: Words, device: torch.device) -> Sentences:
    rows = [words.encode(sentence, at_most=MAX_WORDS) for sentence in part.sentences]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    x = np.full((len(rows), lengths.max()), PAD, dtype=np.int64)
    for target, row in zip(x, rows, strict=True):
        target[: len(row)] = row
    return Sentences(x=torch.from_numpy(x).to(device), y=torch.from_numpy(part.labels).to(device), lengths=lengths)


def _chosen(sentences: Sentences, mask: Tensor) -> Sentences:
    there = mask.to(sentences.y.device)
    return Sentences(x=sentences.x[there], y=sentences.y[there], lengths=sentences.lengths[mask.numpy()])
