"""Sentence classification on RT in small: padding, order, splits, vocabulary, loss; a small network in float64."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from normscope.models import TextClassifier
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.tasks import Recipe
from normscope.tasks.sentences import (
    EVALUATION_BATCH,
    MAX_WORDS,
    RT,
    SST5,
    UNKNOWN,
    EncoderSize,
    Sentences,
    SentenceSplits,
)
from normscope.training.randomness import initialize
from support.data_sets import PHRASES
from support.made_norms import MIXES_POSITIONS

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")
TASK = dataclasses.replace(
    RT,
    sizes={"small": EncoderSize(width=16, heads=2, feed_forward=32, dropout=0.0, layers=2)},
    presets={"small": Recipe(steps=10, batch_size=256, learning_rate=3e-3)},
)


@pytest.fixture(scope="module")
def data() -> SentenceSplits:
    return TASK.load(CPU, "study", "small")


def build(norm: str = "layer_norm", placement: str = "pre") -> TextClassifier:
    model = TASK.network(NORMS[norm], PLACEMENTS[placement], "small")
    initialize(model, 3)
    return model.double().eval()


def some(sentences: Sentences, count: int) -> Sentences:
    return Sentences(x=sentences.x[:count], y=sentences.y[:count], lengths=sentences.lengths[:count])


@pytest.mark.parametrize("norm", [name for name in NORMS if name not in MIXES_POSITIONS])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_padding_changes_no_logit(data: SentenceSplits, norm: str, placement: str) -> None:
    model = build(norm, placement)
    short = torch.from_numpy(np.argsort(data.train.lengths)[1000:1012])
    x, y = data.batch(short)
    assert x.shape[1] == data.train.lengths[short].max() < data.train.x.shape[1]
    assert torch.equal(y, data.train.y[short])
    with torch.no_grad():
        cut = model(x)
        whole = model(data.train.x[short])
        alone = torch.cat([model(data.train.x[[i], : data.train.lengths[i]]) for i in short.tolist()])
    # Logits of order one, sums of a few hundred terms in float64.
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(cut, alone, rtol=0, atol=1e-12)
    assert cut.std() > 1e-2


def test_every_sentence_is_scored_in_its_place(data: SentenceSplits) -> None:
    model = build()
    count = EVALUATION_BATCH + 40
    part = some(data.valid, count)
    assert sorted(part.lengths) != part.lengths.tolist()
    with torch.no_grad():
        loss, scores = TASK.evaluate(model, dataclasses.replace(data, valid=part), "valid")
        logits = torch.cat([model(part.x[[i], : part.lengths[i]]) for i in range(count)])
    right = (logits.argmax(-1) == part.y).numpy()
    assert scores.dtype == np.float32
    assert scores.tolist() == [100.0 if each else 0.0 for each in right]
    assert 0 < right.sum() < count
    nats = -torch.log_softmax(logits, -1)[torch.arange(count), part.y]
    # The task's losses are float32.
    assert loss == pytest.approx(nats.mean().item(), rel=1e-6)
    _, turned = TASK.evaluate(model, dataclasses.replace(data, test=some(data.test, 7)), "test")
    assert len(turned) == 7


def test_loss_is_the_mean_cross_entropy(data: SentenceSplits) -> None:
    model = build()
    x, y = data.batch(torch.arange(20, 60))
    logits = model(x).detach().numpy()
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(40), y.numpy()]
    assert TASK.loss(model, (x, y)).item() == pytest.approx(nats.mean(), rel=1e-6)


def test_no_sentence_is_cut(data: SentenceSplits) -> None:
    texts = TASK.read()
    for part, encoded in ((texts.train, data.train), (texts.valid, data.valid), (texts.test, data.test)):
        assert encoded.lengths.tolist() == [len(sentence.split(" ")) for sentence in part.sentences]
        assert encoded.y.tolist() == part.labels.tolist()
        assert ((encoded.x != 0).sum(1).numpy() == encoded.lengths).all()
        assert encoded.lengths.max() <= MAX_WORDS


def test_words_are_learned_from_the_training_part_alone(data: SentenceSplits) -> None:
    texts = TASK.read()
    counts = Counter(word for sentence in texts.train.sentences for word in sentence.lower().split(" "))
    assert data.words.numbers.keys() == {word for word, count in counts.items() if count >= 2}
    unseen = 0
    for sentence, row in zip(texts.test.sentences, data.test.x.tolist(), strict=True):
        for word, number in zip(sentence.lower().split(" "), row, strict=False):
            assert (number == UNKNOWN) == (counts[word] < 2)
            unseen += counts[word] == 0
    assert unseen > 50


def test_tuning_sees_the_training_part_alone(data: SentenceSplits) -> None:
    tuning = TASK.load(CPU, "tune", "small")
    assert tuning.words == data.words
    assert len(tuning.test.y) == len(tuning.test.lengths) == 0
    held = np.arange(data.train_examples) % 10 == 9
    for part, chosen in ((tuning.valid, held), (tuning.train, ~held)):
        assert torch.equal(part.x, data.train.x[torch.from_numpy(chosen)])
        assert torch.equal(part.y, data.train.y[torch.from_numpy(chosen)])
        assert (part.lengths == data.train.lengths[chosen]).all()
    assert tuning.train_examples + len(tuning.valid.y) == data.train_examples == 2560
    assert tuning.valid.y.bincount().min() > 100


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
        TASK.load(CPU, "test", "small")


def test_batches_keep_the_budget_and_a_pass_has_every_sentence(data: SentenceSplits) -> None:
    order = data.order(256, lambda number: torch.Generator().manual_seed(number))
    seen, padded = [], 0
    for step in range(order.count(0)):
        indices = order.batch(step)
        x, _ = data.batch(indices)
        assert x.numel() <= 256
        padded += x.numel()
        seen += indices.tolist()
    assert sorted(seen) == list(range(data.train_examples))
    # Sorted by length in buckets, so that next to nothing is padding.
    assert data.train.lengths.sum() / padded > 0.9


def test_training_lowers_the_loss(data: SentenceSplits) -> None:
    model = build().float().train()
    order = data.order(256, lambda number: torch.Generator().manual_seed(number))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = [data.batch(order.batch(step)) for step in range(4)]
    losses = []
    for _ in range(15):
        losses.append(sum(TASK.loss(model, batch) for batch in batches) / 4)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0].item() == pytest.approx(np.log(2), abs=0.2)
    assert losses[-1] < 0.8 * losses[0]


def test_sst_has_five_classes() -> None:
    data = SST5.load(CPU, "study", "small")
    assert [len(part.y) for part in (data.train, data.valid, data.test)] == list(PHRASES.values())
    assert data.train.y.unique().tolist() == [0, 1, 2, 3, 4]
    assert SST5.network(NORMS["none"], PLACEMENTS["pre"], "small")(data.test.x[:3]).shape == (3, 5)
