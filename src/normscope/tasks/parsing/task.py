"""Dependency parsing: greedy arc-standard transitions chosen by an MLP (Chen & Manning 2014, Xu et al. 2019)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import ParsedSentence, Treebank, load_ewt, load_ptb, load_ptb_sample
from normscope.models import FeatureMLP
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.parsing.features import Sentence, Vocabulary, encode, examples, extract, vocabulary
from normscope.tasks.parsing.transitions import ParserState, Trees, parse
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
    check_split,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attachment:
    r"""Correctly attached words per sentence.

    .. math::
        \mathrm{UAS} = 100\, \frac{\sum_s \text{right heads}_s}{\sum_s \text{words}_s}\ \%

    over the words of all sentences, not the mean over sentences; LAS likewise.
    """

    unlabelled: np.ndarray
    """Words with the right head, and counted words, ``[S, 2]`` int64: the sums give the UAS."""
    labelled: np.ndarray
    """Words with the right head and relation, and counted words, ``[S, 2]`` int64: the sums give the LAS."""


def attachment(
    sentences: Sequence[Sentence], trees: Trees, known: Vocabulary, *, punctuation: bool = True
) -> Attachment:
    """Count correctly attached words.

    Args:
        sentences: Gold sentences with heads, relations and universal tags; trees may be non-projective.
        trees: Predicted trees in the same order.
        known: Vocabulary with the names of the labels.
        punctuation: Whether every token is counted. False excludes tokens whose ``upos`` is PUNCT; this is another
            metric, with another :func:`metric_name`.

    Raises:
        ValueError: If the numbers of trees and sentences differ, a tree has another length, or punctuation is to be
            excluded and no token is tagged PUNCT.
    """
    if len(sentences) != len(trees.lengths):
        raise ValueError(f"{len(sentences)} sentences need as many trees, got {len(trees.lengths)}")
    if not punctuation and not any("PUNCT" in sentence.upos for sentence in sentences):
        raise ValueError("to leave out punctuation, the upos column must say PUNCT somewhere, and it never does")
    names = np.array(known.transitions.labels, dtype=object)
    counts = np.zeros((len(sentences), 3), np.int64)
    for row, sentence in enumerate(sentences):
        length = len(sentence.forms)
        if trees.lengths[row] != length:
            raise ValueError(f"sentence {row} has {length} words, its tree {trees.lengths[row]}")
        counted = np.array([punctuation or tag != "PUNCT" for tag in sentence.upos], bool)
        right = counted & (trees.heads[row, 1 : 1 + length] == sentence.heads)
        named = right & (names[trees.labels[row, 1 : 1 + length]] == np.array(sentence.relations, dtype=object))
        counts[row] = right.sum(), named.sum(), counted.sum()
    return Attachment(unlabelled=counts[:, [0, 2]], labelled=counts[:, [1, 2]])


def metric_name(*, labelled: bool, punctuation: bool = True) -> str:
    """Return the name of the metric: UAS or LAS, over all tokens or "without punctuation"."""
    return ("LAS" if labelled else "UAS") + ("" if punctuation else " without punctuation")


TUNING_EVERY = 10
"""Every tenth training sentence is held out in the split ``"tune"``."""


@dataclass(frozen=True, kw_only=True)
class ParserSize:
    """Sizes of the classifier. The paper gives "3 layers"; the other sizes are chosen here."""

    width: int
    hidden: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class ParserSplits:
    """Oracle transitions for training, and sentences for evaluation."""

    features: Tensor
    """``[M, 48]`` int16 or int32."""
    targets: Tensor
    """``[M]`` int64."""
    valid: tuple[ParsedSentence, ...]
    test: tuple[ParsedSentence, ...]
    known: Vocabulary
    left_out: Mapping[str, int]
    """Numbers of training sentences excluded because the oracle cannot build them, by reason."""
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of training sentences excluded because the oracle cannot build them."""
        return {f"sentences left out: {reason}": count for reason, count in self.left_out.items()}

    @property
    def train_examples(self) -> int:
        """Number of training transitions."""
        return len(self.targets)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Return the assignment of transitions to batches."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features ``[B, 48]`` and transitions ``[B]`` of ``indices``."""
        indices = indices.to(self.targets.device)
        return self.features[indices], self.targets[indices]


@dataclass(frozen=True, kw_only=True)
class Parsing(BaseTask):
    """Transition-based parsing with cross entropy; the metric is the unlabelled attachment score in percent.

    Tags are gold tags. Every token is counted, punctuation included. The oracle cannot build non-projective trees:
    their sentences are excluded from training, counted, and kept in the validation and test parts.
    """

    datasets: tuple[str, ...]
    """Keys of its data sets."""
    read: Callable[..., Treebank]
    """Reads the original files; with the argument ``seed``, split for that seed."""
    sizes: Mapping[str, ParserSize]
    """Sizes of the network, by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    labelled: bool = False
    """Whether the metric is LAS, which also requires the right relation, instead of UAS."""
    column: str = "xpos"
    """Column of the tags: ``"xpos"`` or ``"upos"``."""

    batch_unit = "transitions"

    @property
    def placements(self) -> tuple[str, ...]:
        """Only ``"preactivation"``: the network has no residual branches."""
        return ("preactivation",)

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        name = metric_name(labelled=self.labelled)
        return Metric(name=f"test {name}", unit="%", higher_is_better=True, aggregate="percentage")

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> FeatureMLP:
        """Build the network of a preset with arbitrary weights."""
        size, known = self.sizes[preset], _known(self.read, self.column, self.split_seed)
        words, tags, labels = known.sizes
        return FeatureMLP(
            words=words,
            tags=tags,
            labels=labels,
            transitions=len(known.transitions),
            width=size.width,
            hidden=size.hidden,
            norm=norm,
            dropout=size.dropout,
        )

    def load(self, device: torch.device, split: Split, preset: str) -> ParserSplits:
        """Read the treebank onto a device.

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
        return _load(self.read, self.column, device, split, self.split_seed)

    def loss(self, model: FeatureMLP, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch of transitions in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def terms(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return the number of transitions of a batch, of which the loss is the mean."""
        return len(batch[1])

    def evaluate(self, model: FeatureMLP, data: ParserSplits, part: Part) -> tuple[float, np.ndarray]:
        """Parse a part of the data; return its loss, and right heads and words per sentence, ``[S, 2]`` float32.

        The loss is the share of wrongly attached words, since the static oracle is undefined off its path; it is NaN if
        a score of the network was not finite.
        """
        sentences = {"valid": data.valid, "test": data.test}[part]
        encoded = encode(sentences, data.known)
        finite = True

        def score(state: ParserState) -> np.ndarray:
            nonlocal finite
            x = torch.from_numpy(extract(state, encoded)).to(data.targets.device)
            scores = model(x).float()
            finite = finite and bool(scores.isfinite().all())
            return scores.cpu().numpy()

        trees = parse(data.known.transitions, encoded.lengths, score)
        found = attachment(sentences, trees, data.known)
        counts = found.labelled if self.labelled else found.unlabelled
        right, words = counts.sum(axis=0)
        return float(1 - right / words) if finite else float("nan"), counts.astype(np.float32)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _read(read: Callable[..., Treebank], seed: int | None) -> Treebank:
    """Read the data; cached, since a worker process computes many runs."""
    return read() if seed is None else read(seed=seed)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _known(read: Callable[..., Treebank], column: str, seed: int | None) -> Vocabulary:
    return vocabulary(_read(read, seed).train, column=column)


@lru_cache(maxsize=DATA_SETS_KEPT)
def _load(
    read: Callable[..., Treebank], column: str, device: torch.device, split: Split, seed: int | None
) -> ParserSplits:
    bank, known = _read(read, seed), _known(read, column, seed)
    train, valid, test = bank.train, bank.valid, bank.test
    if split == "tune":
        valid = train[TUNING_EVERY - 1 :: TUNING_EVERY]
        train = tuple(sentence for number, sentence in enumerate(train) if number % TUNING_EVERY != TUNING_EVERY - 1)
    test = test if split in TESTED else ()
    made = examples(train, known)
    return ParserSplits(
        features=torch.from_numpy(made.features).to(device),
        targets=torch.from_numpy(made.targets.astype(np.int64)).to(device),
        valid=valid,
        test=test,
        known=known,
        left_out=made.left_out,
        hashes=bank.hashes,
    )


SIZES = {
    "small": ParserSize(width=32, hidden=200, dropout=0.0),
    "full": ParserSize(width=50, hidden=200, dropout=0.2),
}

PRESETS = {
    "small": Recipe(steps=2500, batch_size=250, learning_rate=2e-3),
    "full": Recipe(steps=20_000, batch_size=500, learning_rate=2e-3),
}

UD_EWT = Parsing(
    name="ud_ewt",
    description="dependency parsing of UD English EWT, a stand-in for the Penn Treebank; three-layer perceptron",
    datasets=("ud-english-ewt",),
    read=load_ewt,
    sizes=SIZES,
    presets=PRESETS,
    margin=0.3,
    regime="a greedy arc-standard parser on UD English EWT with gold tags, Adam with linear decay",
)

PTB_WSJ_SAMPLE = Parsing(
    name="ptb_wsj_sample",
    description="dependency parsing of NLTK's sample of the Penn Treebank, 5 % of it; three-layer perceptron",
    datasets=("ptb-wsj-sample",),
    read=load_ptb_sample,
    sizes=SIZES,
    presets=PRESETS | {"small": dataclasses.replace(PRESETS["small"], steps=1500)},
    margin=0.3,
    regime="a greedy arc-standard parser on 199 articles of the Penn Treebank with its tags, Adam with linear decay",
    splits={
        "resampled": "over seeds and splits of these 199 articles",
        "published": "over seeds, and over test sentences",
    },
)

PTB = Parsing(
    name="ptb",
    description="dependency parsing of the Penn Treebank (bring your own CoNLL files); three-layer perceptron",
    datasets=("ptb",),
    read=load_ptb,
    sizes=SIZES,
    presets=PRESETS,
    margin=0.3,
    regime="a greedy arc-standard parser on the Penn Treebank with the file's tags, Adam with linear decay",
    published=(
        Published(
            source="Xu et al. (2019), Tables 1 to 3, PTB",
            rows={
                "none": 88.31,
                "layer_norm": 89.12,
                "layer_norm_simple": 89.19,
                "detach_norm": 89.79,
                "ada_norm": 89.23,
            },
            note="taken to be UAS; no seeds and no spread printed; sections, features, sizes and C not printed",
        ),
    ),
)

UD_EWT_LAS = dataclasses.replace(
    UD_EWT, name="ud_ewt_las", description=f"{UD_EWT.description}; labels, too", labelled=True
)

PTB_LAS = dataclasses.replace(
    PTB, name="ptb_las", description=f"{PTB.description}; labels, too", labelled=True, published=()
)
