"""Beam search against all sequences there are, against a plain search with lists, and against greedy decoding."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normscope.tasks.translation import beam as module
from normscope.tasks.translation.beam import PENALTIES, beam_search, finished_hypotheses

EOS, BOS, VOCABULARY = 0, 1, 4


@dataclass(frozen=True)
class Place:
    """Which table a hypothesis reads, and how far it is."""

    sentence: Tensor
    time: int = 0

    def repeat(self, beam: int) -> "Place":
        return replace(self, sentence=self.sentence.repeat_interleave(beam))

    def reorder(self, indices: Tensor) -> "Place":
        return replace(self, sentence=self.sentence[indices])


def chain(sentences: int, length: int, seed: int, vocabulary: int = VOCABULARY, spread: float = 1.5) -> Tensor:
    """Draw logits ``[sentence, time, last token, next token]`` of a Markov chain that changes with time."""
    shape = (sentences, length + 1, vocabulary, vocabulary)
    return spread * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepping(tables: Tensor) -> Callable[[Place, Tensor], tuple[Tensor, Place]]:
    def step(state: Place, tokens: Tensor) -> tuple[Tensor, Place]:
        return tables[state.sentence, state.time, tokens], replace(state, time=state.time + 1)

    return step


def start(sentences: int) -> Place:
    return Place(torch.arange(sentences))


def full(sentences: int, length: int) -> Tensor:
    return torch.full((sentences,), length)


def log_probability(table: Tensor, tokens: list[int]) -> float:
    logarithms = table.log_softmax(-1)
    path = [BOS, *tokens, EOS]
    return sum(float(logarithms[time, a, b]) for time, (a, b) in enumerate(itertools.pairwise(path)))


def by_lists(table: Tensor, *, beam: int, limit: int, alpha: float, penalty: str) -> list[tuple[float, list[int]]]:
    """Search one sentence with lists and no early end."""
    logarithms = table.log_softmax(-1).tolist()
    open_ones, finished = [(0.0, [BOS])], []
    while open_ones and len(finished) < beam:
        said = len(open_ones[0][1]) - 1
        candidates = [
            (total + logarithms[said][path[-1]][token], [*path, token])
            for total, path in open_ones
            for token in range(len(logarithms[0]))
            if said < limit or token == EOS
        ]
        candidates.sort(key=lambda each: -each[0])
        for total, path in candidates[:beam]:
            if path[-1] == EOS:
                finished.append((total / PENALTIES[penalty](said + 1, alpha), path[1:-1]))
        open_ones = [each for each in candidates if each[1][-1] != EOS][:beam]
    return sorted(finished, key=lambda each: -each[0])


@pytest.mark.parametrize("penalty", ["length", "gnmt"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 3.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty, alpha):
    tables = chain(6, 5, seed=1)
    found = finished_hypotheses(
        start(6), stepping(tables), beam=400, max_length=full(6, 5), bos=BOS, eos=EOS, alpha=alpha, penalty=penalty
    )
    every = [list(path) for length in range(6) for path in itertools.product(range(1, 4), repeat=length)]
    assert len(every) == 364
    for table, hypotheses in zip(tables, found, strict=True):
        scores = {
            tuple(path): log_probability(table, path) / PENALTIES[penalty](len(path) + 1, alpha) for path in every
        }
        best = max(scores, key=lambda path: scores[path])
        assert hypotheses[0].tokens == list(best)
        for each in hypotheses:
            # A sum of six float64 logarithms.
            assert each.score == pytest.approx(scores[tuple(each.tokens)], rel=1e-12)
            assert each.log_probability == pytest.approx(log_probability(table, each.tokens), rel=1e-12)


@pytest.mark.parametrize("penalty", ["length", "gnmt"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("beam", [1, 2, 3, 5])
def test_the_best_is_what_a_search_with_lists_finds(beam, alpha, penalty):
    limits = torch.arange(40) % 12 + 1
    tables = chain(40, 12, seed=beam, vocabulary=7)
    found = finished_hypotheses(
        start(40), stepping(tables), beam=beam, max_length=limits, bos=BOS, eos=EOS, alpha=alpha, penalty=penalty
    )
    for table, limit, hypotheses in zip(tables, limits.tolist(), found, strict=True):
        want = by_lists(table, beam=beam, limit=limit, alpha=alpha, penalty=penalty)
        assert hypotheses[0].tokens == want[0][1]
        assert hypotheses[0].score == pytest.approx(want[0][0], rel=1e-12)
        # An early end leaves out hypotheses, and adds none.
        assert {tuple(each.tokens) for each in hypotheses} <= {tuple(path) for _, path in want}


def test_without_the_early_end_all_hypotheses_are_the_ones_of_the_lists(monkeypatch):
    monkeypatch.setattr(module, "_done", lambda finished, bound, beam: len(finished) >= beam or bound == -math.inf)
    tables = chain(40, 9, seed=3, vocabulary=7)
    found = finished_hypotheses(start(40), stepping(tables), beam=4, max_length=full(40, 9), bos=BOS, eos=EOS)
    for table, hypotheses in zip(tables, found, strict=True):
        want = by_lists(table, beam=4, limit=9, alpha=1.0, penalty="length")
        assert [each.tokens for each in hypotheses] == [path for _, path in want]


def test_a_beam_of_one_is_greedy():
    tables = chain(50, 10, seed=4, vocabulary=9)
    got = beam_search(start(50), stepping(tables), beam=1, max_length=full(50, 10), bos=BOS, eos=EOS)
    for table, tokens in zip(tables, got, strict=True):
        greedy = [BOS]
        while len(greedy) <= 10 and (token := int(table[len(greedy) - 1, greedy[-1]].argmax())) != EOS:
            greedy.append(token)
        assert tokens == greedy[1:]
    assert len({len(tokens) for tokens in got}) > 5


def test_the_length_penalty_by_hand():
    # The empty sentence has probability 0.5, "2" has 0.5 * 0.9.
    table = torch.full((1, 2, VOCABULARY, VOCABULARY), -50.0, dtype=torch.float64)
    table[0, 0, BOS, EOS] = table[0, 0, BOS, 2] = math.log(0.5)
    table[0, 1, 2, EOS], table[0, 1, 2, 3] = math.log(0.9), math.log(0.1)

    def best(**arguments: Any) -> tuple[list[int], float]:
        [found] = finished_hypotheses(
            start(1), stepping(table), beam=2, max_length=full(1, 1), bos=BOS, eos=EOS, **arguments
        )
        return found[0].tokens, round(found[0].score, 9)

    # At the greatest length only the end is left, and its probability is not renormalized.
    short, long = math.log(0.5), math.log(0.45)
    assert best(alpha=0.0) == ([], round(short, 9))
    assert best() == best(alpha=1.0) == ([2], round(long / 2, 9))
    assert best(alpha=0.5, penalty="gnmt") == ([], round(short, 9))
    assert best(alpha=1.0, penalty="gnmt") == ([2], round(long / (7 / 6), 9))


class Recurrent(nn.Module):
    """A small decoder with a state that matters."""

    @dataclass(frozen=True)
    class State:
        hidden: Tensor

        def repeat(self, beam: int) -> "Recurrent.State":
            return Recurrent.State(self.hidden.repeat_interleave(beam, dim=0))

        def reorder(self, indices: Tensor) -> "Recurrent.State":
            return Recurrent.State(self.hidden[indices])

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(11, 16), nn.GRUCell(16, 16), nn.Linear(16, 11)
        self.rows: list[int] = []

    def forward(self, state: "Recurrent.State", tokens: Tensor) -> tuple[Tensor, "Recurrent.State"]:
        self.rows.append(len(tokens))
        hidden = self.cell(self.embedding(tokens), state.hidden)
        return 8 * self.head(hidden), Recurrent.State(hidden)


@pytest.fixture
def recurrent() -> Recurrent:
    torch.manual_seed(0)
    return Recurrent().double()


@pytest.mark.parametrize("beam", [1, 4])
def test_a_batch_gives_what_its_sentences_give_alone(recurrent, beam):
    hidden = torch.randn(30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    limits = torch.arange(30) % 7 + 3
    arguments = {"beam": beam, "bos": BOS, "eos": EOS}
    together = finished_hypotheses(Recurrent.State(hidden), recurrent, max_length=limits, **arguments)
    for index, want in enumerate(together):
        [alone] = finished_hypotheses(
            Recurrent.State(hidden[index : index + 1]), recurrent, max_length=limits[index : index + 1], **arguments
        )
        assert [each.tokens for each in alone] == [each.tokens for each in want]
        # Products of matrices of other heights may be added up in another order.
        assert [each.score for each in alone] == pytest.approx([each.score for each in want], rel=1e-13)
    assert len({tuple(each[0].tokens) for each in together}) > 10


@torch.no_grad()
def test_the_score_is_the_models_own(recurrent):
    hidden = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = finished_hypotheses(Recurrent.State(hidden), recurrent, beam=3, max_length=full(5, 8), bos=BOS, eos=EOS)
    for row, hypotheses in enumerate(found):
        for hypothesis in hypotheses:
            state, total, path = Recurrent.State(hidden[row : row + 1]), 0.0, [BOS, *hypothesis.tokens, EOS]
            for last, token in itertools.pairwise(path):
                logits, state = recurrent(state, torch.tensor([last]))
                total += float(logits.log_softmax(-1)[0, token])
            assert hypothesis.log_probability == pytest.approx(total, rel=1e-12)
            assert hypothesis.score == pytest.approx(total / (len(path) - 1), rel=1e-12)


def test_finished_sentences_leave_the_batch(recurrent):
    hidden = torch.randn(30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    beam_search(Recurrent.State(hidden), recurrent, beam=4, max_length=torch.arange(30) % 10 + 1, bos=BOS, eos=EOS)
    assert recurrent.rows[0] == 120
    assert recurrent.rows == sorted(recurrent.rows, reverse=True)
    assert recurrent.rows[-1] < 60
    assert all(rows % 4 == 0 for rows in recurrent.rows)


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_no_hypothesis_twice_none_too_long_and_the_best_first(beam):
    limits = torch.arange(40) % 9 + 1
    tables = chain(40, 9, seed=7, vocabulary=6)
    # An end that is unlikely until it must come.
    tables[..., EOS] -= 3.0
    found = finished_hypotheses(start(40), stepping(tables), beam=beam, max_length=limits, bos=BOS, eos=EOS, never=[3])
    for hypotheses, limit in zip(found, limits.tolist(), strict=True):
        paths = [tuple(each.tokens) for each in hypotheses]
        assert 1 <= len(paths) <= 2 * beam - 1
        assert len(set(paths)) == len(paths)
        assert max(map(len, paths)) <= limit
        assert not {EOS, 3} & set(itertools.chain(*paths))
        scores = [each.score for each in hypotheses]
        assert scores == sorted(scores, reverse=True)
    assert any(len(each[0].tokens) == limit for each, limit in zip(found, limits.tolist(), strict=True))


def test_where_only_the_end_is_allowed_the_sentence_is_empty():
    assert beam_search(
        start(2), stepping(chain(2, 5, seed=8)), beam=3, max_length=full(2, 5), bos=BOS, eos=EOS, never=[1, 2, 3]
    ) == [[], []]
    assert beam_search(start(0), stepping(chain(1, 5, seed=8)), beam=3, max_length=full(0, 5), bos=BOS, eos=EOS) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_are_normalized_in_float32(dtype):
    tables = chain(5, 6, seed=9).to(dtype)
    arguments = {"beam": 3, "max_length": full(5, 6), "bos": BOS, "eos": EOS}
    found = finished_hypotheses(start(5), stepping(tables), **arguments)
    want = finished_hypotheses(start(5), stepping(tables.double()), **arguments)
    for ours, theirs in zip(found, want, strict=True):
        assert ours[0].tokens == theirs[0].tokens
        # Seven logarithms of size ten, each rounded to float32.
        assert ours[0].log_probability == pytest.approx(
            theirs[0].log_probability, abs=7 * 10 * torch.finfo(torch.float32).eps
        )


def test_what_cannot_be_searched_is_refused():
    good = {"beam": 2, "max_length": full(3, 5), "bos": BOS, "eos": EOS}
    tables = chain(3, 5, seed=10)

    def search(step: Callable | None = None, **changed: Any) -> None:
        beam_search(start(3), step or stepping(tables), **{**good, **changed})

    for wrong in (math.nan, math.inf, -math.inf):
        broken = tables.clone()
        broken[1, 0, BOS, 3] = wrong
        with pytest.raises(ValueError, match="logits must be finite"):
            search(stepping(broken))
    far = tables.float()
    far[..., EOS] = torch.finfo(torch.float32).min
    far[..., 2] = torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match=r"sentence 0 cannot end: its logits are too far apart for torch\.float32"):
        search(stepping(far))
    with pytest.raises(ValueError, match=r"expected logits \[6, V\] with V >= 2, got \[5, 4\]"):
        search(lambda state, tokens: (torch.zeros(5, 4), state))
    with pytest.raises(ValueError, match="beam must be 1 or more, got 0"):
        search(beam=0)
    with pytest.raises(ValueError, match="alpha must be 0 or more and finite, got -1"):
        search(alpha=-1.0)
    with pytest.raises(ValueError, match="penalty must be one of length, gnmt, got 'none'"):
        search(penalty="none")
    with pytest.raises(ValueError, match=r"expected max_length \[B\] int64, got \[3\] torch.float32"):
        search(max_length=torch.ones(3))
    with pytest.raises(ValueError, match="max_length must be 1 or more for each sentence, got 0"):
        search(max_length=torch.tensor([3, 0, 1]))
    with pytest.raises(ValueError, match="never must not contain eos, 0"):
        search(never=[1, 0])
