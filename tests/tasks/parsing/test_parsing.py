"""Dependency parsing on a miniature of the English Web Treebank: what is counted, split and left out, and the loss."""

import dataclasses

import numpy as np
import pytest
import torch

from normscope.data import SETS, Treebank, locate, read_conllu
from normscope.models import FeatureMLP
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.aggregates import AGGREGATES
from normscope.tasks import Recipe
from normscope.tasks.parsing.task import UD_EWT, ParserSize, ParserSplits
from normscope.tasks.parsing.transitions import (
    LEFT,
    NON_PROJECTIVE,
    PROJECTIVE,
    RIGHT,
    SHIFT,
    ParserState,
    kind_of_tree,
)
from normscope.training.randomness import initialize

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")


def read_little() -> Treebank:
    """Give the development part of the treebank in three parts."""
    dataset = SETS["ud-english-ewt"]
    sentences = tuple(read_conllu(locate(dataset)["en_ewt-ud-dev.conllu.gz"]))
    return Treebank(train=sentences[:400], valid=sentences[400:440], test=sentences[440:], hashes=dataset.hashes)


TASK = dataclasses.replace(
    UD_EWT,
    read=read_little,
    sizes={"small": ParserSize(width=8, hidden=32, dropout=0.0)},
    presets={"small": Recipe(steps=10, batch_size=100, learning_rate=3e-3)},
)
LABELLED = dataclasses.replace(TASK, labelled=True)


@pytest.fixture(scope="module")
def data() -> ParserSplits:
    return TASK.load(CPU, "study", "small")


def build(norm: str = "layer_norm", seed: int = 0) -> FeatureMLP:
    model = TASK.network(NORMS[norm], PLACEMENTS["preactivation"], "small")
    initialize(model, seed)
    # Away from the near-zero embeddings, so that the features matter.
    with torch.no_grad():
        for table in (model.words, model.tags, model.labels):
            table.weight *= 50
    return model.double().eval()


@pytest.fixture(scope="module")
def trained(data: ParserSplits) -> FeatureMLP:
    model = build().float().train()
    order = data.order(500, lambda number: torch.Generator().manual_seed(number))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(120):
        loss = TASK.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().double()


def parse_slowly(model: FeatureMLP, data: ParserSplits, number: int) -> tuple[list[int], list[str]]:
    """Parse one validation sentence by itself, with the rules of the transitions written out."""
    from normscope.tasks.parsing.features import encode, extract

    sentence = data.valid[number]
    encoded = encode([sentence], data.known)
    arcs = data.known.transitions.arc_labels
    state = ParserState.start(encoded.lengths)
    stack, buffer = [0], list(range(1, len(sentence) + 1))
    heads, labels = [0] * (len(sentence) + 1), [""] * (len(sentence) + 1)
    while buffer or len(stack) > 1:
        with torch.no_grad():
            scores = model(torch.from_numpy(extract(state, encoded)))[0].float().tolist()
        legal = []
        for transition in range(len(scores)):
            shift, root = transition == 0, transition > 2 * len(arcs)
            if (shift and buffer) or (root and not buffer and len(stack) == 2):
                legal.append(transition)
            if not shift and not root and len(stack) > 2:
                legal.append(transition)
        chosen = max(legal, key=lambda transition: scores[transition])
        kinds, numbers = data.known.transitions.kinds, data.known.transitions.label_numbers
        state.apply(kinds[[chosen]], numbers[[chosen]])
        if kinds[chosen] == SHIFT:
            stack.append(buffer.pop(0))
        elif kinds[chosen] == LEFT:
            child = stack.pop(-2)
            heads[child], labels[child] = stack[-1], arcs[chosen - 1]
        else:
            child = stack.pop()
            name = arcs[chosen - 1 - len(arcs)] if kinds[chosen] == RIGHT else "root"
            heads[child], labels[child] = stack[-1], name
    return heads[1:], labels[1:]


def test_right_heads_and_words_of_every_sentence(data: ParserSplits, trained: FeatureMLP) -> None:
    few = dataclasses.replace(data, valid=data.valid[:25])
    with torch.no_grad():
        loss, scores = TASK.evaluate(trained, few, "valid")
        labelled_loss, labelled = LABELLED.evaluate(trained, few, "valid")
    want, named = [], []
    for number, sentence in enumerate(few.valid):
        heads, labels = parse_slowly(trained, few, number)
        right = [head == gold for head, gold in zip(heads, sentence.heads, strict=True)]
        both = [r and label == gold for r, label, gold in zip(right, labels, sentence.relations, strict=True)]
        want.append([sum(right), len(sentence)])
        named.append([sum(both), len(sentence)])
    assert scores.dtype == labelled.dtype == np.float32
    assert scores.tolist() == want
    assert labelled.tolist() == named
    share = np.sum(want, axis=0)
    assert loss == pytest.approx(1 - share[0] / share[1], rel=1e-12)
    assert labelled_loss > loss
    assert AGGREGATES[TASK.metric.aggregate].value(scores) == pytest.approx(100 * (1 - loss), rel=1e-9)
    # It has learned something: every word hung on its left neighbour gives a quarter.
    assert loss < 0.6


def test_parts_hold_their_own_sentences_in_order(data: ParserSplits) -> None:
    with torch.no_grad():
        for part in ("valid", "test"):
            _, scores = TASK.evaluate(build(), data, part)
            assert scores[:, 1].tolist() == [len(sentence) for sentence in getattr(data, part)]
            assert (scores[:, 0] <= scores[:, 1]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_diverged_has_no_loss(data: ParserSplits, value: float) -> None:
    model = build()
    with torch.no_grad():
        model.logits.weight[3, 0] = value
        loss, scores = TASK.evaluate(model, dataclasses.replace(data, valid=data.valid[:5]), "valid")
    assert np.isnan(loss)
    assert np.isfinite(scores).all()
    assert TASK.loss(model, data.batch(torch.arange(50))).isfinite().item() is False


def test_metrics_are_named_by_what_counts() -> None:
    assert TASK.metric.name == TASK.valid_metric.name == "test UAS"
    assert LABELLED.metric.name == "test LAS"
    assert TASK.metric.higher_is_better


def test_loss_is_the_mean_cross_entropy(data: ParserSplits) -> None:
    model = build()
    x, y = data.batch(torch.arange(30, 90))
    assert (x.shape, y.dtype) == ((60, 48), torch.int64)
    logits = model(x).detach().numpy()
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), y.numpy()]
    assert TASK.loss(model, (x, y)).item() == pytest.approx(nats.mean(), rel=1e-6)


def test_crossing_trees_are_left_out_of_training_alone(data: ParserSplits) -> None:
    bank = read_little()
    crossed = [kind_of_tree(sentence.heads) != PROJECTIVE for sentence in bank.train]
    assert data.left_out == {NON_PROJECTIVE: sum(crossed)}
    assert sum(crossed) > 0
    words = sum(len(sentence) for sentence, crosses in zip(bank.train, crossed, strict=True) if not crosses)
    assert data.train_examples == 2 * words
    assert (data.valid, data.test) == (bank.valid, bank.test)
    assert any(kind_of_tree(sentence.heads) != PROJECTIVE for sentence in data.test)


def test_tuning_sees_the_training_part_alone(data: ParserSplits) -> None:
    bank, tuning = read_little(), TASK.load(CPU, "tune", "small")
    assert tuning.test == ()
    assert tuning.valid == tuple(bank.train[number] for number in range(9, 400, 10))
    kept = [bank.train[number] for number in range(400) if number % 10 != 9]
    projective = [sentence for sentence in kept if kind_of_tree(sentence.heads) == PROJECTIVE]
    assert tuning.train_examples == 2 * sum(map(len, projective))
    assert tuning.known == data.known
    model = build()
    with torch.no_grad():
        _, scores = TASK.evaluate(model, tuning, "valid")
    assert len(scores) == 40


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'study' or 'tune', got 'test'"):
        TASK.load(CPU, "test", "small")


def test_every_transition_is_in_a_pass(data: ParserSplits) -> None:
    order = data.order(1000, lambda number: torch.Generator().manual_seed(number))
    steps = -(-data.train_examples // 1000)
    seen = torch.cat([order.batch(step) for step in range(steps)])[: data.train_examples]
    assert seen.sort().values.tolist() == list(range(data.train_examples))


@pytest.mark.slow
@pytest.mark.real_data("ud-english-ewt")
def test_the_whole_treebank_is_there() -> None:
    data = UD_EWT.load(CPU, "study", "small")
    assert (data.train_examples, len(data.valid), len(data.test)) == (392_214, 2001, 2077)
    assert data.left_out == {NON_PROJECTIVE: 288}
