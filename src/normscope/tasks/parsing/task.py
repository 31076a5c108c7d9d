"""Dependency parsing: greedy arc-standard transitions chosen by a perceptron (Chen & Manning 2014, Xu et al. 2019)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from normscope.data import ParsedSentence, Treebank, load_ewt, load_ptb
from normscope.models import FeatureMLP
from normscope.tasks.batching import BatchOrder, Draw
from normscope.tasks.parsing.features import Sentence, Vocabulary, encode, examples, extract, vocabulary
from normscope.tasks.parsing.transitions import ParserState, Trees, parse
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published


@dataclass(frozen=True, kw_only=True, eq=False)
class Attachment:
    r"""How many words of every sentence hang where they should.

    .. math::
        \mathrm{UAS} = 100\, \frac{\sum_s \text{right heads}_s}{\sum_s \text{words}_s}\ \%

    over the words of all sentences, not the mean of the sentences' own shares; LAS likewise.
    """

    unlabelled: np.ndarray
    """Words with the right head, and words that count, ``[S, 2]`` int64: their sums give the UAS."""
    labelled: np.ndarray
    """Words with the right head and relation, and words that count, ``[S, 2]`` int64: their sums give the LAS."""


def attachment(
    sentences: Sequence[Sentence], trees: Trees, known: Vocabulary, *, punctuation: bool = True
) -> Attachment:
    """Count the words that hang where they should.

    Args:
        sentences: With their gold heads, relations and universal tags; any trees, non-projective ones, too.
        trees: What was parsed, in the same order.
        known: Where the names of the labels are.
        punctuation: Whether every token counts. False leaves out those whose ``upos`` is PUNCT, which is another
            metric: :func:`metric_name` names it otherwise.

    Raises:
        ValueError: If there are not as many trees as sentences, a tree has another length, or punctuation is to be left
            out where no token at all is PUNCT.
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
    """Name the metric: UAS or LAS over all tokens, or the same "without punctuation"."""
    return ("LAS" if labelled else "UAS") + ("" if punctuation else " without punctuation")


TUNING_EVERY = 10
"""Every tenth training sentence is held out where learning rates are chosen."""


@dataclass(frozen=True, kw_only=True)
class ParserSize:
    """How large the perceptron is. The paper prints "3 layers"; the rest is our choice."""

    width: int
    hidden: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class ParserSplits:
    """Oracle transitions to learn from, and sentences to parse."""

    features: Tensor
    """``[M, 48]`` int16 or int32."""
    targets: Tensor
    """``[M]`` int64."""
    valid: tuple[ParsedSentence, ...]
    test: tuple[ParsedSentence, ...]
    known: Vocabulary
    left_out: Mapping[str, int]
    """Training sentences that the oracle cannot build, by reason; nothing is left out of the other parts."""
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Training sentences that the oracle cannot build."""
        return {f"sentences left out: {reason}": count for reason, count in self.left_out.items()}

    @property
    def train_examples(self) -> int:
        """Transitions in the training part."""
        return len(self.targets)

    def order(self, batch_size: int, draw: Draw) -> BatchOrder:
        """Say which transitions make which batch."""
        return BatchOrder(self.train_examples, batch_size, draw)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Give features ``[B, 48]`` and transitions ``[B]``."""
        indices = indices.to(self.targets.device)
        return self.features[indices], self.targets[indices]


@dataclass(frozen=True, kw_only=True)
class Parsing:
    """Choose the oracle's transition by cross entropy; the metric is the unlabelled attachment score, in per cent.

    Tags are the gold ones. Every token counts, punctuation too. Sentences whose trees cross arcs cannot be built by
    the oracle: they are left out of training, counted, and kept in the validation and test parts.
    """

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    datasets: tuple[str, ...]
    """Keys of the data sets it reads."""
    read: Callable[[], Treebank]
    """Reads the original files."""
    sizes: Mapping[str, ParserSize]
    """Of the network, by preset."""
    presets: Mapping[str, Recipe]
    """How it is trained."""
    margin: float
    """Smallest difference worth having, in points of per cent."""
    regime: str
    """What claims are limited to."""
    labelled: bool = False
    """Whether the relation must be right, too: LAS instead of UAS."""
    column: str = "xpos"
    """Where tags are read."""
    published: tuple[Published, ...] = ()
    """What others printed for it."""
    revision: int = 1
    """Raised whenever numbers change."""

    @property
    def placements(self) -> tuple[str, ...]:
        """There is no residual branch."""
        return ("preactivation",)

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        name = metric_name(labelled=self.labelled)
        return Metric(name=f"test {name}", unit="%", higher_is_better=True, aggregate="percentage")

    @property
    def valid_metric(self) -> Metric:
        """The same on the validation sentences."""
        return self.metric

    @property
    def batch_unit(self) -> str:
        """Batches are of so many transitions."""
        return "transitions"

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> FeatureMLP:
        """Build the network of a preset with any weights."""
        size, known = self.sizes[preset], _known(self.read, self.column)
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

    def load(self, device: torch.device, split: str, preset: str) -> ParserSplits:
        """Read the treebank onto a device.

        Args:
            device: Where the tensors go.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every tenth sentence
                held out. The vocabulary is that of the whole training part in both.
            preset: The data are the same in every preset.

        Raises:
            ValueError: If ``split`` is neither.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
        return _load(self.read, self.column, device, split)

    def loss(self, model: FeatureMLP, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the mean cross entropy of a batch of transitions in nats, a scalar."""
        x, y = batch
        return F.cross_entropy(model(x).float(), y)

    def evaluate(self, model: FeatureMLP, data: ParserSplits, part: str) -> tuple[float, np.ndarray]:
        """Parse a part; give its loss, and right heads and words of every sentence, ``[S, 2]`` float32.

        The loss is the share of words that hang wrong: a greedy parser goes its own way, and no oracle says there what
        would have been right. It is not a number if a score was none.
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


@cache
def _read(read: Callable[[], Treebank]) -> Treebank:
    """Read once a process: a worker computes many runs."""
    return read()


@cache
def _known(read: Callable[[], Treebank], column: str) -> Vocabulary:
    return vocabulary(_read(read).train, column=column)


@cache
def _load(read: Callable[[], Treebank], column: str, device: torch.device, split: str) -> ParserSplits:
    bank, known = _read(read), _known(read, column)
    train, valid, test = bank.train, bank.valid, bank.test
    if split == "tune":
        valid, test = train[TUNING_EVERY - 1 :: TUNING_EVERY], ()
        train = tuple(one for number, one in enumerate(train) if number % TUNING_EVERY != TUNING_EVERY - 1)
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
