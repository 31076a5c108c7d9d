"""Machine translation by an encoder-decoder transformer, judged by sacreBLEU."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
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
from normscope.tasks.task import Metric, NormFactory, PlacementLike, Published, check_blind
from normscope.tasks.translation.beam import beam_search
from normscope.tasks.translation.corpus import EncodedPairs, PairBatch, PairFilter, encode_pairs
from normscope.tasks.translation.subwords import BOS, EOS, PAD, UNK, Subwords, learn

TOKENIZERS = ("13a", "intl", "none", "char", "zh")
"""sacreBLEU's tokenizers that need neither another package nor the network."""


def bleu_signature(*, tokenize: str, lowercase: bool) -> str:
    """Give the signature that sacreBLEU prints for one reference and its own defaults; ``version:none`` without it."""
    try:
        number = version("sacrebleu")
    except PackageNotFoundError:
        number = "none"
    return f"nrefs:1|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{tokenize}|smooth:exp|version:{number}"


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", lowercase: bool = False
) -> tuple[np.ndarray, str]:
    """Count for every sentence what corpus BLEU is computed from.

    The sums over sentences give sacreBLEU's corpus score by the aggregate ``bleu``.

    Args:
        hypotheses: ``E`` translations; an empty one is counted as such.
        references: One reference each.
        tokenize: One of :data:`TOKENIZERS`; ``"none"`` for text that is tokenized already.
        lowercase: Whether case is ignored.

    Returns:
        ``[E, 10]`` float32, every number a whole one: lengths of hypothesis and reference in tokens, then matched
        1- to 4-grams, then 1- to 4-grams of the hypothesis; and the signature, as sacreBLEU prints it, with its
        version. Scores of different signatures must not be compared.

    Raises:
        ValueError: If there are no sentences, the two sides differ in number, or the tokenizer is not one of ours.
        ImportError: If sacreBLEU is not installed.

    References:
        Post (2018). A call for clarity in reporting BLEU scores.
    """
    if tokenize not in TOKENIZERS:
        raise ValueError(f"tokenize must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    if len(hypotheses) != len(references) or not len(references):
        raise ValueError(
            f"expected as many hypotheses as references, at least one, got {len(hypotheses)} and {len(references)}"
        )
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ImportError("BLEU needs sacrebleu, which is not here: `pip install normscope[text]` brings it") from error

    corpus = BLEU(tokenize=tokenize, lowercase=lowercase)
    # The signature is complete only once a corpus was scored: it holds the number of references.
    corpus.corpus_score(hypotheses, [references])
    # The effective order changes a sentence's score and none of its counts; without it every sentence would warn.
    sentence = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = (sentence.sentence_score(*pair) for pair in zip(hypotheses, ([text] for text in references), strict=True))
    rows = [(score.sys_len, score.ref_len, *score.counts, *score.totals) for score in scores]
    return np.array(rows, dtype=np.float32), str(corpus.get_signature())


DECODED_AT_ONCE = 64
"""Sentences of about one length that a beam search works on together; it changes no translation."""

KEEP = PairFilter(max_length=175, max_ratio=9.0)
"""Training pairs beyond it are left out, counted and told; the limits are those of the public De-En preparation, but
for the ratio, which subwords of two languages need wider."""

TUNING_EVERY = 20
"""Every twentieth training pair is held out where learning rates are chosen."""

LABEL_SMOOTHING = 0.1


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """How large the network and its vocabulary are."""

    vocabulary: int
    """Joint subwords of both languages."""
    width: int
    heads: int
    feed_forward: int
    layers: int
    """Of the encoder, and of the decoder."""
    dropout: float
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    window: int | None = None
    """Positions that the decoder's self-attention sees; None for all before it."""


@dataclass(frozen=True, kw_only=True)
class Translations:
    """Encoded pairs, the references as text, and the vocabulary."""

    train: EncodedPairs
    chosen: np.ndarray
    """Numbers of the pairs that train, ``[N]`` int64."""
    valid: EncodedPairs
    valid_chosen: np.ndarray
    """Numbers of the pairs that validate."""
    sources: tuple[str, ...]
    """The test side to be translated; empty where a split may not touch it."""
    references: tuple[str, ...]
    vocabulary: Subwords
    device: torch.device
    hashes: Mapping[str, str]

    @property
    def counts(self) -> Mapping[str, int]:
        """Training pairs, and those that the filter left out."""
        return {"pairs": len(self.train), **{f"pairs left out: {key}": n for key, n in self.train.dropped.items()}}

    @property
    def train_examples(self) -> int:
        """Pairs that train."""
        return len(self.chosen)

    def order(self, batch_size: int, draw: Draw) -> TokenBatches:
        """Batches of so many padded tokens on the longer side, each of pairs of about one length."""
        return TokenBatches(self.train.lengths[self.chosen], batch_size, draw)

    def batch(self, indices: Tensor) -> PairBatch:
        """Give padded pairs."""
        return _on(self.train.batch(torch.from_numpy(self.chosen[indices.numpy()])), self.device)


@dataclass(frozen=True, kw_only=True)
class Translation:
    """Translate by maximum likelihood with label smoothing; the metric is sacreBLEU of the test side.

    Subwords are learned on the training side only. While training, the validation side is judged by its cross entropy,
    since searching takes too long; the test side is translated once, by beam search.
    """

    name: str
    """Key in the catalogue."""
    description: str
    """One line for ``normscope list tasks``."""
    corpus: str
    """Key of the data set that trains."""
    tests: str = ""
    """Key of the one that validates and tests, where it is another."""
    lowercase: bool
    """Whether both sides are lower-cased, and BLEU is, too."""
    tokenize: str
    """sacreBLEU's tokenizer: ``13a`` for raw text, ``none`` for text that comes tokenized, as multi-bleu has it."""
    sizes: Mapping[str, TransformerSize]
    """Of the network, by preset."""
    presets: Mapping[str, Recipe]
    """How it is trained."""
    margin: float
    """Smallest difference worth having, in BLEU."""
    regime: str
    """What claims are limited to."""
    placements: tuple[str, ...]
    """Placements that the network can take, its default first."""
    beam: int = 5
    """Open hypotheses of the search."""
    alpha: float = 1.0
    """Power of the length that a hypothesis's score is divided by."""
    published: tuple[Published, ...] = ()
    """What others printed for it."""
    revision: int = 1
    """Raised whenever numbers change."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Keys of the data sets it reads."""
        return (self.corpus, self.tests) if self.tests else (self.corpus,)

    @property
    def packages(self) -> tuple[str, ...]:
        """What it needs beside normscope's own needs: ``pip install normscope[text]``."""
        return ("sentencepiece", "sacrebleu")

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        signature = bleu_signature(tokenize=self.tokenize, lowercase=self.lowercase)
        return Metric(name="test BLEU", unit="BLEU", higher_is_better=True, aggregate="bleu", signature=signature)

    @property
    def valid_metric(self) -> Metric:
        """Cross entropy without smoothing: comparable for one vocabulary only, as all arms of a study have."""
        return Metric(name="cross entropy", unit="nats a token", higher_is_better=False, aggregate="ratio")

    @property
    def batch_unit(self) -> str:
        """Batches are of about so many tokens on the longer side."""
        return "padded tokens"

    def network(self, norm: NormFactory, placement: PlacementLike, preset: str) -> Seq2Seq:
        """Build the network of a preset with any weights.

        Raises:
            ValueError: If the norm looks at other positions, see :func:`normscope.tasks.task.check_blind`.
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

    def load(self, device: torch.device, split: str, preset: str) -> Translations:
        """Read, or encode once and then read, the corpus.

        Args:
            device: Where batches go.
            split: ``"study"`` for the published parts; ``"tune"`` for the training part alone, every twentieth pair
                held out. The vocabulary is that of the whole training part in both.
            preset: Decides the size of the vocabulary.

        Raises:
            ValueError: If ``split`` is neither, or the corpus lacks a part.
        """
        if split not in ("study", "tune"):
            raise ValueError(f"split must be 'study' or 'tune', got {split!r}")
        return _load(self.corpus, self.tests, self.lowercase, self.sizes[preset].vocabulary, device, split)

    def loss(self, model: Seq2Seq, batch: PairBatch) -> Tensor:
        """Compute the mean label-smoothed cross entropy of a batch's target tokens in nats, a scalar."""
        logits, wanted = _predict(model, batch)
        return F.cross_entropy(logits, wanted, label_smoothing=LABEL_SMOOTHING)

    def evaluate(self, model: Seq2Seq, data: Translations, part: str) -> tuple[float, np.ndarray]:
        """Judge a part.

        Returns:
            Of ``"valid"`` the mean cross entropy of a token in nats, and for every sentence its nats and tokens,
            ``[E, 2]``; of ``"test"`` the cross entropy 0, which nobody asks for, and the counts of BLEU, ``[E, 10]``.
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
        """Translate sentences by beam search; a translation may be half as long again as its source, and ten tokens."""
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
    """Give logits ``[M, V]`` and ids ``[M]`` of the target tokens that are no pads."""
    wanted = batch.target[:, 1:]
    keep = wanted != PAD
    features = model.features(batch.source, batch.target[:, :-1])
    return model.logits(features[keep]).float(), wanted[keep]


def _cross_entropy(model: Seq2Seq, data: Translations) -> np.ndarray:
    """Give nats and tokens of every validation pair, ``[E, 2]`` float32."""
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


@cache
def _load(corpus: str, tests: str, lowercase: bool, size: int, device: torch.device, split: str) -> Translations:
    """Read once a process: a worker computes many runs."""
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
    """Give a part of a corpus.

    Raises:
        ValueError: If it is not published.
    """
    pairs = getattr(splits, part)
    if pairs is None:
        raise ValueError(f"the corpus {name} has no part {part!r}")
    return pairs


def _texts(pairs: Pairs, lowercase: bool) -> Iterator[tuple[str, str]]:
    return ((_cased(source, lowercase), _cased(target, lowercase)) for source, target in pairs)
