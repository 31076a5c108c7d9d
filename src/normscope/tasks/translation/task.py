"""Machine translation with an encoder-decoder transformer, evaluated by sacreBLEU."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from normscope.data import Pairs, ParallelSplits, load_parallel
from normscope.models import Seq2Seq
from normscope.tasks.batching import Draw, TokenBatches
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import (
    DATA_SETS_KEPT,
    BaseTask,
    Metric,
    NormFactory,
    Part,
    PlacementLike,
    Split,
    check_blind,
    check_split,
)
from normscope.tasks.translation.beam import beam_search
from normscope.tasks.translation.bleu import bleu_signature, bleu_statistics
from normscope.tasks.translation.corpus import EncodedPairs, PairBatch, PairFilter, encode_pairs
from normscope.tasks.translation.subwords import BOS, EOS, PAD, UNK, Subwords, learn

DECODED_AT_ONCE = 64
"""Number of sentences of similar length per beam search; does not affect the translations."""

KEEP = PairFilter(max_length=175, max_ratio=9.0)
"""Training pairs excluded by it are counted and recorded. The limits are those of the public De-En preparation, except
for the ratio, which is wider because it applies to subwords of two languages."""

TUNING_EVERY = 20
"""Every twentieth training pair is held out in the split ``"tune"``."""

LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """Sizes of the network and its vocabulary."""

    vocabulary: int
    """Number of joint subwords of both languages."""
    width: int
    heads: int
    feed_forward: int
    layers: int
    """Number of layers of the encoder, and of the decoder."""
    dropout: float
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    window: int | None = None
    """Number of positions the decoder's self-attention sees; None means all earlier positions."""


@dataclass(frozen=True, kw_only=True)
class Translations:
    """Encoded sentence pairs, references as text, and the vocabulary."""

    train: EncodedPairs
    chosen: np.ndarray
    """Indices of the training pairs, ``[N]`` int64."""
    valid: EncodedPairs
    valid_chosen: np.ndarray
    """Indices of the validation pairs in ``valid``."""
    sources: tuple[str, ...]
    """Source side of the test data; empty in the split ``"tune"``."""
    references: tuple[str, ...]
    vocabulary: Subwords
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of training pairs, and of pairs excluded by the filter."""
        return {"pairs": len(self.train), **{f"pairs left out: {key}": n for key, n in self.train.dropped.items()}}

    @property
    def train_examples(self) -> int:
        """Number of training pairs."""
        return len(self.chosen)

    def order(self, batch_size: int, draw: Draw) -> TokenBatches:
        """Return the order of batches of ``batch_size`` padded tokens on the longer side, sorted by length."""
        return TokenBatches(self.train.lengths[self.chosen], batch_size, draw)

    def batch(self, indices: Tensor) -> PairBatch:
        """Return the padded pairs of ``indices``."""
        return _on(self.train.batch(torch.from_numpy(self.chosen[indices.numpy()])), self.device)


@dataclass(frozen=True, kw_only=True)
class Translation(BaseTask):
    """Translation by maximum likelihood with label smoothing; the metric is sacreBLEU on the test data.

    Subwords are learned from training data only. Validation during training uses the cross entropy, since a beam
    search takes too long; the test data are translated once, by beam search.
    """

    corpus: str
    """Key of the data set for training."""
    tests: str = ""
    """Key of the data set for validation and test, if it is another."""
    lowercase: bool
    """Whether the text is lower-cased and BLEU ignores case."""
    tokenize: str
    """sacreBLEU's tokenizer: ``13a`` for raw text, ``none`` for tokenized text (like multi-bleu)."""
    sizes: Mapping[str, TransformerSize]
    """Sizes of the network, by preset."""
    presets: Mapping[str, Recipe]
    """Training settings by preset."""
    placements: tuple[str, ...]
    """Placements the network supports, default first."""
    beam: int = 5
    """Beam size."""
    alpha: float = 1.0
    """Exponent of the length penalty."""

    batch_unit = "padded tokens"

    @property
    def datasets(self) -> tuple[str, ...]:
        """Keys of its data sets."""
        return (self.corpus, self.tests) if self.tests else (self.corpus,)

    @property
    def packages(self) -> tuple[str, ...]:
        """Required packages beyond normscope's dependencies: ``pip install normscope[text]``."""
        return ("sentencepiece", "sacrebleu")

    @property
    def metric(self) -> Metric:
        """Metric of the test data."""
        signature = bleu_signature(tokenize=self.tokenize, lowercase=self.lowercase)
        return Metric(name="test BLEU", unit="BLEU", higher_is_better=True, aggregate="bleu", signature=signature)

    @property
    def valid_metric(self) -> Metric:
        """Cross entropy without smoothing; comparable only for equal vocabularies, as in all arms of a study."""
        return Metric(name="cross entropy", unit="nats a token", higher_is_better=False, aggregate="ratio")

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> Seq2Seq:
        """Build the network of a preset with arbitrary weights.

        Raises:
            ValueError: If the norm mixes positions, see :func:`normscope.tasks.task.check_blind`.
        """
        size = self.sizes[preset]
        stack = partial(placement.stack, norm=norm, other_layers=size.layers)
        model = Seq2Seq(
            vocabulary=size.vocabulary,
            width=size.width,
            heads=size.heads,
            feed_forward=size.feed_forward,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            dropout=size.dropout,
            attention_dropout=size.attention_dropout,
            activation_dropout=size.activation_dropout,
            window=size.window,
            encoder_stack=partial(stack, part="encoder"),
            decoder_stack=partial(stack, part="decoder"),
        )
        check_blind(model, self.name)
        return model

    def load(self, device: torch.device, split: Split, preset: str) -> Translations:
        """Read the encoded corpus; it is encoded at the first call.

        Args:
            device: Device of the batches.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every twentieth pair
                held out for validation. The vocabulary is that of the whole training part in both.
            preset: Determines the size of the vocabulary.

        Raises:
            ValueError: If ``split`` is not one of these, or the corpus lacks a part.
        """
        check_split(split)
        return _load(self.corpus, self.tests, self.lowercase, self.sizes[preset].vocabulary, device, split)

    def loss(self, model: Seq2Seq, batch: PairBatch) -> Tensor:
        """Compute the mean label-smoothed cross entropy of a batch's target tokens in nats, a scalar."""
        logits, wanted = _predict(model, batch)
        return F.cross_entropy(logits, wanted, label_smoothing=LABEL_SMOOTHING)

    def terms(self, batch: PairBatch) -> int:
        """Return the number of target tokens of a batch, of which the loss is the mean."""
        return int((batch.target[:, 1:] != PAD).sum())

    def evaluate(self, model: Seq2Seq, data: Translations, part: Part) -> tuple[float, np.ndarray]:
        """Evaluate the model on a part of the data.

        Returns:
            For ``"valid"``: the mean cross entropy per token in nats, and nats and tokens per sentence, ``[E, 2]``.
            For ``"test"``: 0 instead of a loss, and the counts for BLEU, ``[E, 10]``.
        """
        if part == "valid":
            scores = _cross_entropy(model, data)
            total = scores.sum(axis=0, dtype=np.float64)
            return float(total[0] / total[1]), scores
        hypotheses = self.translate(model, data.sources, data.vocabulary, data.device)
        scores, _ = bleu_statistics(hypotheses, data.references, tokenize=self.tokenize, lowercase=self.lowercase)
        return 0.0, scores

    def translate(
        self, model: Seq2Seq, sources: tuple[str, ...], vocabulary: Subwords, device: torch.device
    ) -> list[str]:
        """Translate sentences by beam search, with up to 1.5 times the source's length plus ten tokens."""
        encoded = vocabulary.encode_many([_cased(text, self.lowercase) for text in sources])
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        found: dict[int, str] = {}
        for chosen in np.array_split(order, max(1, len(order) // DECODED_AT_ONCE)):
            rows = [torch.tensor([*encoded[index], EOS]) for index in chosen]
            source = pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)
            longest = torch.tensor([len(encoded[index]) * 3 // 2 + 10 for index in chosen], device=device)
            said = beam_search(
                model.start(source),
                model.step,
                beam=self.beam,
                max_length=longest,
                bos=BOS,
                eos=EOS,
                alpha=self.alpha,
                never=(PAD, BOS, UNK),
            )
            found |= {int(index): vocabulary.decode(ids) for index, ids in zip(chosen, said, strict=True)}
        return [found[index] for index in range(len(sources))]


def _predict(model: Seq2Seq, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Return logits ``[M, V]`` and ids ``[M]`` of the target tokens without padding."""
    wanted = batch.target[:, 1:]
    keep = wanted != PAD
    features = model.features(batch.source, batch.target[:, :-1])
    return model.logits(features[keep]).float(), wanted[keep]


def _cross_entropy(model: Seq2Seq, data: Translations) -> np.ndarray:
    """Return nats and number of tokens per validation pair, ``[E, 2]`` float32."""
    chosen = data.valid_chosen
    scores = np.empty((len(chosen), 2), dtype=np.float32)
    order = np.argsort(data.valid.lengths[chosen], kind="stable")
    for places in np.array_split(order, max(1, len(order) // DECODED_AT_ONCE)):
        batch = _on(data.valid.batch(torch.from_numpy(chosen[places])), data.device)
        logits, wanted = _predict(model, batch)
        nats = F.cross_entropy(logits, wanted, reduction="none").double().cpu().numpy()
        counts = (batch.target[:, 1:] != PAD).sum(dim=1).cpu().numpy()
        scores[places, 0] = np.add.reduceat(nats, np.concatenate([[0], counts.cumsum()[:-1]]))
        scores[places, 1] = counts
    return scores


def _on(batch: PairBatch, device: torch.device) -> PairBatch:
    return PairBatch(source=batch.source.to(device), target=batch.target.to(device))


def _cased(text: str, lowercase: bool) -> str:
    return text.lower() if lowercase else text


@lru_cache(maxsize=DATA_SETS_KEPT)
def _load(corpus: str, tests: str, lowercase: bool, size: int, device: torch.device, split: Split) -> Translations:
    """Read the data; cached, since a worker process computes many runs."""
    trains = load_parallel(corpus)
    judges = load_parallel(tests) if tests else trains
    train = _part(trains, "train", corpus)
    origin = [f"{name}:{digest}" for name, digest in sorted(trains.hashes.items())]
    vocabulary = learn([*origin, f"lowercase={lowercase}"], chain.from_iterable(_texts(train, lowercase)), size)
    encoded = encode_pairs(
        [*origin, "train", f"lowercase={lowercase}"], _texts(train, lowercase), vocabulary, keep=KEEP
    )
    numbers = np.arange(len(encoded))
    if split == "tune":
        held = numbers % TUNING_EVERY == TUNING_EVERY - 1
        return Translations(
            train=encoded,
            chosen=numbers[~held],
            valid=encoded,
            valid_chosen=numbers[held],
            sources=(),
            references=(),
            vocabulary=vocabulary,
            device=device,
            hashes={**trains.hashes, "vocabulary": vocabulary.sha256, "encoded training pairs": encoded.sha256},
        )
    name = tests or corpus
    judged = [f"{key}:{digest}" for key, digest in sorted(judges.hashes.items())]
    valid = encode_pairs(
        [*judged, "valid", f"lowercase={lowercase}"], _texts(_part(judges, "valid", name), lowercase), vocabulary
    )
    sources, references = zip(*_part(judges, "test", name), strict=True)
    return Translations(
        train=encoded,
        chosen=numbers,
        valid=valid,
        valid_chosen=np.arange(len(valid)),
        sources=sources,
        references=references,
        vocabulary=vocabulary,
        device=device,
        hashes={
            **trains.hashes,
            **judges.hashes,
            "vocabulary": vocabulary.sha256,
            "encoded training pairs": encoded.sha256,
        },
    )


def _part(splits: ParallelSplits, part: str, name: str) -> Pairs:
    """Return a part of a corpus.

    Raises:
        ValueError: If the corpus has no such part.
    """
    pairs = getattr(splits, part)
    if pairs is None:
        raise ValueError(f"the corpus {name} has no part {part!r}")
    return pairs


def _texts(pairs: Pairs, lowercase: bool) -> Iterator[tuple[str, str]]:
    return ((_cased(source, lowercase), _cased(target, lowercase)) for source, target in pairs)
