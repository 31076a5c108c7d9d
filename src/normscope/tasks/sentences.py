"""Sentence classification: sentiment and subjectivity with a four-layer transformer encoder, trained from scratch."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import LabelledText, LabelledTextSplits, load_cr, load_mpqa, load_rt, load_sst, load_subj
from normscope.models import TextClassifier
from normscope.tasks.batching import Draw, TokenBatches
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import (
    DATA_SETS_KEPT,
    TESTED,
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

PAD, UNKNOWN = 0, 1
"""Ids of padding and of words outside the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """A vocabulary of lower-case words; the data sets are tokenized, with single spaces."""

    numbers: Mapping[str, int]
    """Word to id, from 2."""

    @property
    def size(self) -> int:
        """Number of ids, padding and unknown word included."""
        return len(self.numbers) + 2

    def encode(self, sentence: str, *, at_most: int) -> list[int]:
        """Return the ids of a sentence's first ``at_most`` words; never empty."""
        words = sentence.lower().split(" ")[:at_most]
        return [self.numbers.get(word, UNKNOWN) for word in words] or [UNKNOWN]


def learn_words(sentences: Iterable[str], *, at_least: int) -> Words:
    """Build the vocabulary of words that occur ``at_least`` times, by decreasing count and then alphabetically.

    Raises:
        ValueError: If no word occurs that often.
    """
    counts = Counter(word for sentence in sentences for word in sentence.lower().split(" "))
    kept = sorted((word for word, count in counts.items() if count >= at_least), key=lambda word: (-counts[word], word))
    if not kept:
        raise ValueError(f"no word occurs {at_least} times or more in {counts.total()} words")
    return Words(numbers={word: number for number, word in enumerate(kept, start=2)})


EVALUATION_BATCH = 128
"""Sentences per forward pass in evaluation, sorted by length; affects results only by rounding."""

MAX_WORDS = 64
"""Longer sentences are truncated; RT and SST-5 contain none."""

AT_LEAST = 2
"""Minimum count of a word in the training part to enter the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """Sizes of the classifier. The paper gives only the number of layers; the other sizes are chosen here."""

    width: int
    heads: int
    feed_forward: int
    dropout: float
    layers: int = 4


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Labelled sentences on a device."""

    x: Tensor
    """Word ids ``[N, T]`` int64, padded with 0."""
    y: Tensor
    """``[N]`` int64."""
    lengths: np.ndarray
    """Number of words of every sentence, ``[N]`` int64."""


@dataclass(frozen=True, kw_only=True)
class SentenceSplits:
    """Training, validation and test sentences; ``test`` is empty in the split ``"tune"``."""

    train: Sentences
    valid: Sentences
    test: Sentences
    words: Words
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Empty: no example is excluded."""
        return {}

    @property
    def train_examples(self) -> int:
        """Number of training sentences."""
        return len(self.train.y)

    def order(self, batch_size: int, draw: Draw) -> TokenBatches:
        """Return the order of batches of ``batch_size`` padded words, of sentences of similar length."""
        return TokenBatches(self.train.lengths, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the words ``[B, T]``, T the longest sentence, and labels ``[B]`` of ``indices``."""
        return _cut(self.train, indices)


@dataclass(frozen=True, kw_only=True)
class SentenceClassification(BaseTask):
    """Sentence classification with cross entropy; the metric is the accuracy on test sentences in percent.

    Words are lower-cased; words that occur once in the training part are mapped to the unknown word.
    """

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[..., LabelledTextSplits]
    """Reads the original files; with the argument ``seed``, split for that seed."""
    classes: int
    """Number of labels."""
    sizes: Mapping[str, EncoderSize]
    """Sizes of the network, by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    placements: tuple[str, ...]
    """Placements the network supports, default first."""

    batch_unit = "padded words"

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        return Metric(name="test accuracy", unit="%", higher_is_better=True)

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> TextClassifier:
        """Build the network of a preset with arbitrary weights.

        Raises:
            ValueError: If the norm mixes positions, see :func:`normscope.tasks.task.check_blind`.
        """
        size = self.sizes[preset]
        model = TextClassifier(
            vocabulary=_words(self.read, self.split_seed).size,
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

    def load(self, device: torch.device, split: Split, preset: str) -> SentenceSplits:
        """Read the data onto a device.

        Args:
            device: Device of the tensors.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every tenth sentence
                held out for validation. The vocabulary is that of the whole training part in both. ``"resampled"`` for
                the parts of the task's seed, with the vocabulary of its training part; ``"resampled_tune"`` for the
                same without the test part.
            preset: Unused: the data are the same in every preset.

        Raises:
            ValueError: If ``split`` is not one of these, or a seed is missing or not used.
        """
        check_split(split, self.split_seed)
        return _load(self.read, device, split, self.split_seed)

    def loss(self, model: TextClassifier, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def terms(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return the number of sentences of a batch, of which the loss is the mean."""
        return len(batch[1])

    def evaluate(self, model: TextClassifier, data: SentenceSplits, part: Part) -> tuple[float, np.ndarray]:
        """Return the mean cross entropy in nats, and 100 or 0 per sentence, ``[N]`` float32."""
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


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[..., LabelledTextSplits], seed: int | None) -> LabelledTextSplits:
    """Read the data; cached, since a worker process computes many runs."""
    return read() if seed is None else read(seed=seed)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _words(read: Callable[..., LabelledTextSplits], seed: int | None) -> Words:
    return learn_words(_read(read, seed).train.sentences, at_least=AT_LEAST)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _load(
    read: Callable[..., LabelledTextSplits], device: torch.device, split: Split, seed: int | None
) -> SentenceSplits:
    texts, words = _read(read, seed), _words(read, seed)
    train, valid, test = (_encode(part, words, device) for part in (texts.train, texts.valid, texts.test))
    if split == "tune":
        held = torch.arange(len(train.y)) % 10 == 9
        train, valid = _chosen(train, ~held), _chosen(train, held)
    if split not in TESTED:
        test = _chosen(test, torch.zeros(len(test.y), dtype=torch.bool))
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


ENCODER_PLACEMENTS = (
    "pre",
    "post",
    "output",
    "peri",
    "deepnorm",
    "rezero",
    "layernorm_scaling",
    "recursive_skip",
    "hybrid",
    "mix",
    "residual_dual",
    "none",
    "fixup",
    "t_fixup",
    "skipinit",
    "scaled_branches",
)
"""Placements of every transformer. Pre-LN is the default, as in the code released by Xu et al."""

SOURCE = "Xu et al. (2019), Tables 1 to 3"
NOTE = "no seeds and no spread printed; width, dropout, optimizer, split and AdaNorm's C not printed"

SIZES = {
    "small": EncoderSize(width=64, heads=4, feed_forward=128, dropout=0.3),
    "full": EncoderSize(width=256, heads=4, feed_forward=1024, dropout=0.3),
}

RT = SentenceClassification(
    name="rt",
    description="10,662 film review sentences, positive or negative (Pang and Lee 2005); encoder of four layers",
    datasets=("rt-polarity",),
    read=load_rt,
    classes=2,
    sizes=SIZES,
    presets={
        "small": Recipe(steps=800, batch_size=1024, learning_rate=1e-3, clip=1.0),
        "full": Recipe(steps=3000, batch_size=4096, learning_rate=3e-4, clip=1.0, warmup=300),
    },
    margin=1.0,
    regime="a four-layer transformer encoder from scratch on 8,530 sentences of RT, Adam with linear decay",
    splits={
        "resampled": "over seeds and splits of these 10,662 sentences",
        "published": "over seeds, and over test sentences",
    },
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, RT",
            rows={
                "none": 76.85,
                "layer_norm": 77.21,
                "layer_norm_simple": 76.66,
                "detach_norm": 76.40,
                "ada_norm": 77.50,
            },
            note=NOTE,
        ),
    ),
)

SST5 = SentenceClassification(
    name="sst5",
    description="11,855 film review sentences in five classes (Socher et al. 2013); encoder of four layers",
    datasets=("sst",),
    read=load_sst,
    classes=5,
    sizes=SIZES,
    presets={
        "small": Recipe(steps=700, batch_size=1024, learning_rate=1e-3, clip=1.0),
        "full": Recipe(steps=3000, batch_size=4096, learning_rate=3e-4, clip=1.0, warmup=300),
    },
    margin=1.0,
    regime="a four-layer transformer encoder from scratch on 8,544 sentences of SST-5, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, SST5",
            rows={
                "none": 38.55,
                "layer_norm": 39.23,
                "layer_norm_simple": 40.54,
                "detach_norm": 40.04,
                "ada_norm": 40.54,
            },
            note=NOTE,
        ),
    ),
)


def _classes(
    name: str, description: str, dataset: str, read: Callable[..., LabelledTextSplits], pool: str, steps: int
) -> SentenceClassification:
    """Return a task of two classes like RT, on a data set that has no published split either."""
    return replace(
        RT,
        name=name,
        description=f"{description}; encoder of four layers",
        datasets=(dataset,),
        read=read,
        presets={**RT.presets, "small": replace(RT.presets["small"], steps=steps)},
        regime=f"a four-layer transformer encoder from scratch on four fifths of {pool}, Adam with linear decay",
        splits={**RT.splits, "resampled": f"over seeds and splits of these {pool}"},
        published=(),
    )


CR = _classes(
    "cr",
    "3,771 sentences of customer reviews, positive or negative (Hu and Liu 2004)",
    "custrev",
    load_cr,
    "3,771 sentences of CR",
    400,
)
SUBJ = _classes(
    "subj",
    "10,000 sentences on films, objective or subjective (Pang and Lee 2004)",
    "subj",
    load_subj,
    "10,000 sentences of SUBJ",
    800,
)
MPQA = _classes(
    "mpqa",
    "10,603 phrases of opinion in news, positive or negative (Wiebe et al. 2005)",
    "mpqa",
    load_mpqa,
    "10,603 phrases of MPQA",
    800,
)
