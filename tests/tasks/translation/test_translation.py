"""Translation on Multi30k in small: splits, vocabulary, losses by hand, search and BLEU; small networks in float64."""

import dataclasses
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normscope.data import load_parallel
from normscope.models import Seq2Seq
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.tasks import Recipe
from normscope.tasks.translation.beam import beam_search
from normscope.tasks.translation.corpus import PairBatch
from normscope.tasks.translation.settings import EVBNEWS_EN_VI, MULTI30K_DE_EN
from normscope.tasks.translation.subwords import BOS, EOS, PAD, UNK, learn
from normscope.tasks.translation.task import LABEL_SMOOTHING, TransformerSize, Translation, Translations
from normscope.training.randomness import initialize
from support.data_sets import PAIRS

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")
TRAIN, VALID, TEST = PAIRS.values()
SIZE = TransformerSize(vocabulary=4000, width=16, heads=2, feed_forward=32, layers=1, dropout=0.0)
TASK = dataclasses.replace(
    MULTI30K_DE_EN,
    sizes={"small": SIZE},
    presets={"small": Recipe(steps=10, batch_size=512, learning_rate=3e-3)},
)


def pairs(corpus: str, part: str) -> list[tuple[str, str]]:
    """Read a part that is published."""
    return list(getattr(load_parallel(corpus), part))


@pytest.fixture(scope="module")
def data() -> Translations:
    return TASK.load(CPU, "study", "small")


def build(norm: str = "layer_norm", placement: str = "pre") -> Seq2Seq:
    model = TASK.network(NORMS[norm], PLACEMENTS[placement], "small")
    initialize(model, 4)
    return model.double().eval()


@pytest.fixture(scope="module")
def trained(data: Translations) -> Seq2Seq:
    model = build().float().train()
    order = data.order(512, lambda number: torch.Generator().manual_seed(number))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss = TASK.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    return model.eval().double()


def log_probabilities(model: Seq2Seq, batch: PairBatch, row: int) -> tuple[np.ndarray, list[int]]:
    """Give those of one pair alone, without padding, ``[T, V]``, and the ids that it should say."""
    source = batch.source[row][batch.source[row] != PAD][None]
    target = batch.target[row][batch.target[row] != PAD][None]
    with torch.no_grad():
        logits = model(source, target[:, :-1])[0].numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), target[0, 1:].tolist()


def test_the_parts_are_those_of_the_files(data: Translations) -> None:
    sizes = (data.train_examples, len(data.valid), len(data.sources), len(data.references))
    assert sizes == (TRAIN, VALID, TEST, TEST)
    assert (data.sources, data.references) == tuple(zip(*pairs("multi30k", "test"), strict=True))
    assert data.chosen.tolist() == list(range(TRAIN))
    assert data.valid_chosen.tolist() == list(range(VALID))
    # Six files, the vocabulary, and what they were encoded to.
    assert len(data.hashes) == 8
    assert data.hashes["encoded training pairs"] == data.train.sha256
    assert data.counts["pairs"] == TRAIN
    assert sum(count for reason, count in data.counts.items() if reason != "pairs") == 0
    assert data.hashes["vocabulary"] == data.vocabulary.sha256


def test_a_batch_holds_the_pairs_that_were_asked_for(data: Translations) -> None:
    train = pairs("multi30k", "train")
    chosen = torch.tensor([5, TRAIN - 1, 0])
    batch = data.batch(chosen)
    for row, number in enumerate(chosen.tolist()):
        source, target = train[number]
        assert data.vocabulary.decode(batch.source[row].tolist()) == " ".join(source.lower().split())
        assert data.vocabulary.decode(batch.target[row].tolist()) == " ".join(target.lower().split())
        assert batch.target[row, 0] == BOS
        assert (batch.source[row] == EOS).sum() == (batch.target[row] == EOS).sum() == 1


def test_tuning_sees_the_training_part_alone(data: Translations) -> None:
    tuning = TASK.load(CPU, "tune", "small")
    assert (tuning.sources, tuning.references) == ((), ())
    assert tuning.valid_chosen.tolist() == list(range(19, TRAIN, 20))
    assert tuning.chosen.tolist() == [number for number in range(TRAIN) if number % 20 != 19]
    assert tuning.train_examples == TRAIN - TRAIN // 20
    assert tuning.vocabulary.sha256 == data.vocabulary.sha256
    # Both parts are numbers of the training pairs.
    assert tuning.train.sha256 == tuning.valid.sha256 == data.train.sha256 != data.valid.sha256
    first, held = tuning.batch(torch.tensor([19])), data.batch(torch.tensor([20]))
    assert torch.equal(first.source, held.source)
    assert torch.equal(first.target, held.target)
    assert (
        max(tuning.order(512, lambda number: torch.Generator()).batch(step).max() for step in range(9))
        < TRAIN - TRAIN // 20
    )


def test_an_unknown_split_and_a_missing_part_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
        TASK.load(CPU, "test", "small")
    with pytest.raises(ValueError, match="the corpus iwslt15-en-vi-tests has no part 'train'"):
        dataclasses.replace(TASK, corpus="iwslt15-en-vi-tests").load(CPU, "study", "small")


def test_subwords_are_learned_from_the_training_side_alone(
    data: Translations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty cache, so that these are learned now.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    train = [(source.lower(), target.lower()) for source, target in pairs("multi30k", "train")]
    again = learn(["learned by a test"], chain.from_iterable(train), 4000)
    assert again.sha256 == data.vocabulary.sha256
    seen = Counter(" ".join(chain.from_iterable(train)).split())
    unseen = {word for text in chain(data.sources, data.references) for word in text.lower().split()} - set(seen)
    assert len(unseen) > 100
    # Pieces are parts of words that were seen: the beginning of a longer one may be a word of the test side.
    begun = {word[:length] for word in seen for length in range(1, len(word) + 1)}
    assert len(unseen - begun) > 100
    assert all(len(data.vocabulary.encode(word)) > 1 for word in unseen - begun)
    common = [word for word, _ in seen.most_common(500) if word.isalpha()]
    assert all(len(data.vocabulary.encode(word)) == 1 for word in common)
    assert not any(UNK in data.vocabulary.encode(text.lower()) for text in data.references)


@pytest.mark.parametrize("placement", ["pre", "post", "hybrid"])
def test_padding_changes_no_logit(data: Translations, placement: str) -> None:
    model = build(placement=placement)
    batch = data.batch(torch.tensor([0, 100, 7, 2000]))
    assert (batch.source == PAD).any()
    assert (batch.target == PAD).any()
    with torch.no_grad():
        padded = model(batch.source, batch.target[:, :-1]).log_softmax(-1).numpy()
    for row in range(4):
        alone, wanted = log_probabilities(model, batch, row)
        # Logarithms of about 1 / 4,000, sums of a few hundred terms in float64.
        np.testing.assert_allclose(padded[row, : len(wanted)], alone, rtol=0, atol=1e-11)


def test_loss_is_the_label_smoothed_cross_entropy_of_what_is_no_pad(data: Translations) -> None:
    model = build()
    batch = data.batch(torch.arange(40, 52))
    wanted_share, spread = 1 - LABEL_SMOOTHING + LABEL_SMOOTHING / 4000, LABEL_SMOOTHING / 4000
    losses = []
    for row in range(12):
        logarithms, wanted = log_probabilities(model, batch, row)
        for position, token in enumerate(wanted):
            target = np.full(4000, spread)
            target[token] = wanted_share
            losses.append(-(target * logarithms[position]).sum())
    assert (LABEL_SMOOTHING, len(losses)) == (0.1, int((batch.target[:, 1:] != PAD).sum()))
    assert TASK.loss(model, batch).item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_validation_scores_are_nats_and_tokens_of_every_pair_in_its_place(data: Translations) -> None:
    model = build()
    part = dataclasses.replace(data, valid_chosen=np.array([3, 390, 17, *range(200, 340)]))
    with torch.no_grad():
        loss, scores = TASK.evaluate(model, part, "valid")
    assert (scores.shape, scores.dtype) == ((143, 2), np.float32)
    assert loss == pytest.approx(scores[:, 0].sum(dtype=np.float64) / scores[:, 1].sum(dtype=np.float64), rel=1e-12)
    assert AGGREGATES[TASK.valid_metric.aggregate].value(scores) == pytest.approx(loss, rel=1e-12)
    whole = data.valid.batch(part.valid_chosen.tolist())
    for place in (0, 1, 2, 3, 77, 142):
        logarithms, wanted = log_probabilities(model, whole, place)
        nats = -logarithms[np.arange(len(wanted)), wanted].sum()
        assert scores[place].tolist() == [pytest.approx(nats, rel=1e-6), len(wanted)]


def test_the_whole_validation_part_is_judged(data: Translations) -> None:
    with torch.no_grad():
        loss, scores = TASK.evaluate(build(), data, "valid")
    assert scores[:, 1].tolist() == (data.valid.target.lengths + 1).tolist()
    # An untrained network knows little more than the size of the vocabulary.
    assert loss == pytest.approx(np.log(4000), abs=1.5)


@pytest.mark.slow
def test_translations_keep_their_order_and_equal_those_of_single_sentences(data: Translations) -> None:
    # A network that is torn about, so that other sources give other words.
    torn = build()
    with torch.no_grad():
        for name, parameter in torn.named_parameters():
            if parameter.dim() == 2 and "source" not in name:
                parameter *= 4
    sources = data.sources[:140]
    found = TASK.translate(torn, sources, data.vocabulary, CPU)
    assert len(found) == 140
    assert len(set(found)) > 100
    for number in range(0, 140, 9):
        assert TASK.translate(torn, sources[number : number + 1], data.vocabulary, CPU) == [found[number]]
    assert TASK.translate(torn, sources[::-1], data.vocabulary, CPU) == found[::-1]


def test_translations_end_in_time_and_say_nothing_that_is_no_word(
    data: Translations, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[tuple[int, int]] = []

    def search(*args: Any, **options: Any) -> list[list[int]]:
        found = beam_search(*args, **options)
        lengths.extend(zip(options["max_length"].tolist(), map(len, found), strict=True))
        assert not {PAD, BOS, EOS, UNK} & set(chain.from_iterable(found))
        return found

    monkeypatch.setattr("normscope.tasks.translation.task.beam_search", search)
    sources = data.sources[:6]
    model = build()
    with torch.no_grad():
        # Whatever comes out of the decoder, one of these two is what it likes best by far.
        model.target.weight[UNK] *= 50
        model.target.weight[BOS] = -model.target.weight[UNK]
    TASK.translate(model, sources, data.vocabulary, CPU)
    want = [len(data.vocabulary.encode(text.lower())) * 3 // 2 + 10 for text in sources]
    assert sorted(limit for limit, _ in lengths) == sorted(want)
    # An untrained network goes on until it must end.
    assert all(said <= limit for limit, said in lengths)
    assert any(said == limit for limit, said in lengths)


def test_a_beam_is_no_worse_than_none(data: Translations, trained: Seq2Seq) -> None:
    """With alpha 0 the score is the probability: a wider beam finds sentences that are more probable together."""
    sums = []
    for beam in (1, 5):
        task = dataclasses.replace(TASK, beam=beam, alpha=0.0)
        said = task.translate(trained, data.sources[:40], data.vocabulary, CPU)
        total = 0.0
        for source, text in zip(data.sources, said, strict=False):
            ids = [data.vocabulary.encode(source.lower()), data.vocabulary.encode(text)]
            batch = PairBatch(source=torch.tensor([[*ids[0], EOS]]), target=torch.tensor([[BOS, *ids[1], EOS]]))
            logarithms, wanted = log_probabilities(trained, batch, 0)
            total += logarithms[np.arange(len(wanted)), wanted].sum()
        sums.append(total)
    assert sums[1] > sums[0]


def test_test_scores_are_the_counts_of_sacrebleu(data: Translations, trained: Seq2Seq) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    part = dataclasses.replace(data, sources=data.sources[:60], references=data.references[:60])
    with torch.no_grad():
        loss, scores = TASK.evaluate(trained, part, "test")
    assert (loss, scores.shape) == (0.0, (60, 10))
    said = TASK.translate(trained, part.sources, data.vocabulary, CPU)
    want = sacrebleu.corpus_bleu(said, [part.references], lowercase=True, tokenize="13a").score
    assert AGGREGATES[TASK.metric.aggregate].value(scores) == pytest.approx(want, abs=1e-9)
    assert want > 0


class Told(Translation):
    """Says what it was told, so that only the scoring is left."""

    said: Any = None

    def translate(self, model: Any, sources: Any, vocabulary: Any, device: Any) -> list[str]:
        return self.said


@pytest.mark.parametrize("tokenize", ["13a", "none"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_references_score_a_hundred_against_themselves(data: Translations, tokenize: str, lowercase: bool) -> None:
    fields = {field.name: getattr(TASK, field.name) for field in dataclasses.fields(TASK)}
    task = Told(**{**fields, "tokenize": tokenize, "lowercase": lowercase})
    values = []
    for said in (list(data.references), [text.lower() for text in data.references]):
        object.__setattr__(task, "said", said)
        _, scores = task.evaluate(build(), data, "test")
        values.append(AGGREGATES[task.metric.aggregate].value(scores))
    assert values[0] == pytest.approx(100, abs=1e-9)
    # Every caption begins with a capital.
    assert (values[1] < 95) is not lowercase


@pytest.mark.parametrize("task", [MULTI30K_DE_EN, EVBNEWS_EN_VI], ids=lambda task: task.name)
def test_signature_is_sacrebleus_own(task: Translation) -> None:
    bleu = pytest.importorskip("sacrebleu.metrics.bleu")
    scorer = bleu.BLEU(tokenize=task.tokenize, lowercase=task.lowercase)
    scorer.corpus_score(["a b c d"], [["a b c d"]])
    assert task.metric.signature == str(scorer.get_signature())


@pytest.mark.slow
def test_another_set_validates_and_tests() -> None:
    data = EVBNEWS_EN_VI.load(CPU, "study", "small")
    assert len(pairs("evbnews-en-vi", "train")) == data.train_examples + sum(data.train.dropped.values())
    assert sum(data.train.dropped.values()) < 10
    assert (len(data.valid), len(data.sources)) == (VALID, TEST)
    assert (data.sources, data.references) == tuple(zip(*pairs("iwslt15-en-vi-tests", "test"), strict=True))
    assert {"evbnews.en.gz", "evbnews.vi.gz", "dev-2012-en-vi.tgz", "test-2013-en-vi.tgz"} <= set(data.hashes)
    assert data.vocabulary.size == 6000
    # Case is kept.
    texts = [data.vocabulary.decode(data.train.target[number].tolist()) for number in range(9)]
    assert any(text != text.lower() for text in texts)
    tuning = EVBNEWS_EN_VI.load(CPU, "tune", "small")
    assert tuning.train_examples + len(tuning.valid_chosen) == data.train_examples
    assert tuning.sources == ()
