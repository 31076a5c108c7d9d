"""Cloze questions as arrays of symbols, cut from novels by the recipe of the Children's Book Test."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import shuffled
from normscope.data.readers.novels import read_novels
from normscope.data.readers.prose import find_names, find_nouns, sentences
from normscope.data.readers.word_vectors import word_vectors
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

PAD, UNKNOWN, BLANK, FIRST_IDENTIFIER = range(4)
"""Symbols of padding, of a word outside the vocabulary, of the missing word, and of the first identifier."""

CONTEXT = 20
"""Sentences before the one with the missing word."""

CANDIDATES = 10
"""Words to choose from, the missing one among them."""


@dataclass(frozen=True, kw_only=True)
class ClozeQuestions:
    """Questions as arrays of symbols, padded on the right."""

    passages: np.ndarray
    """``[N, T]`` int32."""
    queries: np.ndarray
    """``[N, L]`` int32, with :data:`BLANK` in the place of the answer."""
    candidates: np.ndarray
    """``[N, K]`` int32, symbols to choose from; ``[N, 0]`` if the answer is any symbol."""
    answers: np.ndarray
    """``[N]`` int32, symbols."""
    mentions: np.ndarray
    """``[N, K]`` int32, occurrences of every candidate in the uncut passage."""
    latest: np.ndarray
    """``[N, K]`` int32, place of the last of them, in tokens from the start; -1 without any."""

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.answers)


@dataclass(frozen=True, kw_only=True)
class ClozeSplits:
    """Questions in three parts, and their symbols."""

    train: ClozeQuestions
    valid: ClozeQuestions
    test: ClozeQuestions
    held_for_tuning: int
    """Number of last training questions that validate where the published split must not."""
    vocabulary: tuple[str, ...]
    """The words of the symbols, in order; the first ones are padding, the unknown word, the blank and identifiers."""
    identifiers: int
    """Number of identifiers, the symbols from :data:`FIRST_IDENTIFIER` on, which a reader renames at will."""
    hashes: Mapping[str, str]
    """sha256 of every source file by name; recorded with every run."""
    counts: Mapping[str, int]
    """Numbers of questions that were left out, by reason."""
    vectors: np.ndarray | None = None
    """Vectors of the symbols, ``[V, D]`` float32, of length one, and zero where there is none."""


class Cut(NamedTuple):
    """A question that is cut from a text."""

    sentence: int
    """Number of the sentence with the missing word; the ones before it are the passage."""
    place: int
    """Place of the missing word in it."""
    candidates: tuple[str, ...]
    """Words to choose from, sorted."""


def cut_questions(
    text: Sequence[Sequence[str]], kind: frozenset[str], stream: str, *, context: int = CONTEXT, count: int = CANDIDATES
) -> Iterator[Cut]:
    """Cut questions from consecutive sentences, by the recipe of the Children's Book Test.

    The passage is ``context`` sentences, the query the following one without a word. Every word of the kind that stands
    once in the query and at least once in the passage makes a question. The wrong candidates are other words of the
    kind in the passage, drawn at random; a passage with too few makes no question.

    Args:
        text: Sentences of tokens.
        kind: The words that may be missing, all of a type.
        stream: Name of the random stream, such as a book's title.
        context: Number of sentences of a passage.
        count: Number of candidates, the missing word included.

    Yields:
        The questions in order.

    References:
        Hill, Bordes, Chopra, Weston (2016). The Goldilocks principle. arXiv:1511.02301, section 2.1.
        Departs from it in: types come from the rules of :mod:`normscope.data.readers.prose`, not from a trained tagger;
            no verbs and prepositions; the missing word stands in the passage; chapters are not told apart.
    """
    found = [[word for word in tokens if word in kind] for tokens in text]
    for number in range(context, len(text)):
        present = set(chain.from_iterable(found[number - context : number]))
        if len(present) < count:
            continue
        once = Counter(text[number])
        for place, word in enumerate(text[number]):
            if word not in present or once[word] > 1:
                continue
            others = shuffled(present - {word}, f"{stream}/{number}/{place}")[: count - 1]
            yield Cut(number, place, tuple(sorted([word, *others])))


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of a passage and of a query is kept."""

    near: int | None = None
    """Words to either side of a candidate's occurrence in the passage that are kept; None keeps all."""
    passage: int
    """Maximum number of tokens of a passage, the last ones."""
    around: int
    """Words to either side of the missing one that are kept of a query."""
    sentences: int | None = None
    """Sentences that are kept, those that share most words with the query; None keeps all."""
    words: int
    """Size of the vocabulary, without the first symbols."""
    vectors: int = 0
    """Width of word vectors that are computed from the training text; 0 for none."""


IDENTIFIERS = 48
"""Names of a question from a novel that are told apart; further ones, never candidates, are unknown words."""

VALID_BOOKS, TEST_BOOKS = 1, 2
"""Number of books that validate, and of those behind them, the last by number, that test."""

LEAST = 50
"""Number of occurrences in the training books from which a word is taken for a noun, and can be learned."""


@check_arguments
def load_novels_cloze(size: Size, *, progress: Progress | None = None) -> ClozeSplits:
    """Cut questions from the novels of ``gutenberg-novels``; whole books are held out, the last by number.

    A missing word is a common noun or a name. Nouns, words and their frequency are those of the training books. Names
    are renamed: each becomes an identifier, as the entities of Hermann et al. (2015), in alphabetical order, the
    candidates first. All else is in lower case. Raises ``DataNotFound`` or ``DataDamaged`` if a file is not available.

    Args:
        size: How much is kept of a question.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: As for :func:`~normscope.data.readers.novels.read_novels`.
    """
    dataset = SETS["gutenberg-novels"]
    paths = locate(dataset, progress=progress)
    books = {title: sentences(text) for title, text in read_novels(progress=progress).items()}
    titles = list(books)
    learned, held = titles[: -VALID_BOOKS - TEST_BOOKS], titles[-VALID_BOOKS - TEST_BOOKS :]
    nouns = find_nouns(chain.from_iterable(books[title] for title in learned), least=LEAST)
    names = {title: find_names(text) for title, text in books.items()}
    frequent = Counter(
        word.lower()
        for title in learned
        for word in chain.from_iterable(books[title])
        if word not in names[title] and word.lower() not in nouns
    )
    words = [*sorted(nouns), *(word for word, _ in frequent.most_common(max(0, size.words - len(nouns))))]
    vocabulary = ("", "@unknown", "@blank", *(f"@name{n}" for n in range(IDENTIFIERS)), *words)
    symbols = {word: number for number, word in enumerate(vocabulary)}

    def part(titles: Sequence[str]) -> ClozeQuestions:
        return _join([_of_book(books[title], names[title], nouns, symbols, title, size) for title in titles])

    last = part(learned[-1:])
    vectors = None
    if size.vectors:
        # Two symbols of padding end a sentence: no word is a neighbour of one beyond it.
        running = (symbols.get(t.lower(), UNKNOWN) for title in learned for s in books[title] for t in (*s, "", ""))
        rng = np.random.default_rng(0)
        text = np.fromiter(running, dtype=np.int32)
        vectors = word_vectors(text, len(symbols), size.vectors, rng, first=FIRST_IDENTIFIER)
    return ClozeSplits(
        train=_join([part(learned[:-1]), last]),
        valid=part(held[:VALID_BOOKS]),
        test=part(held[VALID_BOOKS:]),
        held_for_tuning=len(last),
        vocabulary=vocabulary,
        identifiers=IDENTIFIERS,
        hashes=found_hashes(dataset, paths),
        counts={},
        vectors=vectors,
    )


def _of_book(
    book: list[list[str]],
    names: frozenset[str],
    nouns: frozenset[str],
    symbols: Mapping[str, int],
    title: str,
    size: Size,
) -> ClozeQuestions:
    """Cut the questions of a book; names are numbered behind the vocabulary until they get their identifiers."""
    known = dict(symbols) | {name: len(symbols) + n for n, name in enumerate(sorted(names))}
    ids = [
        np.array([known[t] if t in names else known.get(t.lower(), UNKNOWN) for t in tokens], dtype=np.int32)
        for tokens in book
    ]
    ends = np.cumsum([0, *map(len, ids)])
    text = np.concatenate(ids)
    questions = []
    for kind, types in (("nouns", nouns), ("names", names)):
        for cut in cut_questions(book, types, f"{title}/{kind}"):
            passage = text[ends[cut.sentence - CONTEXT] : ends[cut.sentence]]
            query = ids[cut.sentence].copy()
            answer = query[cut.place]
            query[cut.place] = BLANK
            candidates = np.array([known[word] for word in cut.candidates], dtype=np.int32)
            questions.append(_arrays(passage, query, candidates, answer, len(symbols), size))
    return stack(questions, size)


def _arrays(
    passage: np.ndarray, query: np.ndarray, candidates: np.ndarray, answer: int, names_from: int, size: Size
) -> tuple[Any, ...]:
    """Cut a passage and a query, and give the names their identifiers."""
    at = passage[:, None] == candidates
    mentions = at.sum(0)
    latest = np.where(mentions > 0, len(passage) - 1 - at[::-1].argmax(0), -1)
    if size.near is not None:
        kept = near = at.any(1)
        for shift in range(1, size.near + 1):
            kept = kept | np.pad(near[shift:], (0, shift)) | np.pad(near[:-shift], (shift, 0))
        passage = passage[kept]
    passage, query = passage[-size.passage :], query_around(query, size.around)
    names = np.unique(np.concatenate([passage, query, candidates]))
    names = names[names >= names_from]
    if len(names):
        names = np.concatenate([names[np.isin(names, candidates)], names[~np.isin(names, candidates)]])
        rank = {name: n + FIRST_IDENTIFIER if n < IDENTIFIERS else UNKNOWN for n, name in enumerate(names.tolist())}
        passage, query, candidates, only = (
            np.array([rank.get(one, one) for one in part.tolist()], dtype=np.int32)
            for part in (passage, query, candidates, np.array([answer]))
        )
        answer = only[0]
    return passage, query, candidates, np.int32(answer), mentions, latest


def query_around(query: Any, around: int, blank: str | int = BLANK) -> Any:
    """Return the part of a query, a sequence or an array, from ``around`` tokens before its blank to as many behind."""
    place = list(query).index(blank)
    return query[max(0, place - around) : place + around + 1]


def stack(questions: Sequence[tuple[Any, ...]], size: Size) -> ClozeQuestions:
    """Pad questions on the right and stack them.

    Args:
        questions: Passage, query, candidates, answer, mentions and places of the last ones, of each.
        size: Determines the length of the rows.
    """
    count, choices = len(questions), len(questions[0][2]) if questions else 0
    passages = np.zeros((count, size.passage), dtype=np.int32)
    queries = np.zeros((count, 2 * size.around + 1), dtype=np.int32)
    for row, (passage, query, *_) in enumerate(questions):
        passages[row, : len(passage)] = passage
        queries[row, : len(query)] = query
    rest = [np.array([one[n] for one in questions], dtype=np.int32) for n in range(2, 6)]
    candidates, answers, mentions, latest = (
        one.reshape(count, *((choices,) if n != 1 else ())) for n, one in enumerate(rest)
    )
    return ClozeQuestions(
        passages=passages, queries=queries, candidates=candidates, answers=answers, mentions=mentions, latest=latest
    )


def _join(parts: Sequence[ClozeQuestions]) -> ClozeQuestions:
    fields = ("passages", "queries", "candidates", "answers", "mentions", "latest")
    return ClozeQuestions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})


def baselines(splits: ClozeSplits) -> dict[str, float]:
    """Compute the accuracies of guesses without a reader on the test questions, in percent.

    ``chance``; ``most frequent answer``, the candidate that was most often right in training; ``most frequent word``,
    that with most occurrences in the training passages; ``most frequent in the passage``; ``the same, then the
    latest``, which takes the latest of equally frequent ones; ``latest in the passage``. Ties count with their share.
    """
    size, train, test = len(splits.vocabulary), splits.train, splits.test
    answers = np.bincount(train.answers, minlength=size)
    words = np.bincount(np.repeat(train.candidates.ravel(), train.mentions.ravel()), minlength=size)
    guesses = {
        "chance": np.zeros_like(test.mentions),
        "most frequent answer": answers[test.candidates],
        "most frequent word": words[test.candidates],
        "most frequent in the passage": test.mentions,
        "the same, then the latest": test.mentions * 100_000 + test.latest,
        "latest in the passage": test.latest,
    }
    right = test.candidates == test.answers[:, None]
    best = {name: value == value.max(1, keepdims=True) for name, value in guesses.items()}
    return {name: float(100 * ((one & right).sum(1) / one.sum(1)).mean()) for name, one in best.items()}
