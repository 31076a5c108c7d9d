"""Sentences and words of novels, and which words are names and common nouns, by rules without a model."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TITLES = _words("mr mrs messrs miss ms master dr st sir madam lord lady captain colonel")
"""Words before a name that are not taken for one."""

ABBREVIATIONS = _words("mr mrs messrs ms dr st rev esq capt col jr vol no etc viz")
"""Words whose full stop does not end a sentence."""

DETERMINERS = _words("a an the my his our your their its this that every no")
"""Words before a noun phrase; ``her`` is left out, for it stands before a full stop as often as before a noun."""

FOLLOWERS = _words(
    ". , ; : ! ? -- of and was is were are had has that who which in to with for on at from as but by or 's"
)
"""Tokens that follow a noun phrase, and rarely an adjective within it."""

NOT_NOUNS = _words(
    "other others same first second third last next one two three four five six ten very own more most less least such "
    "only little great good old new whole best former latter rest few many much present"
)
"""Words that stand between a determiner and a follower without naming a thing."""

_TOKEN = re.compile(r"'s\b|[A-Za-z0-9]+(?:(?:'(?!s\b)|-(?!-))[A-Za-z0-9]+)*|--|[^\sA-Za-z0-9_-]|-")
_END = re.compile(r"([A-Za-z]*)[.!?]+[\"')\]]*\s+(?=[\"'(\[_]*[A-Z])")
_FULL = (".", "!", "?", '"', "'", ")", "]", "--", ",", ";", ":")


def sentences(text: str) -> list[list[str]]:
    r"""Split a novel into sentences of tokens, in order.

    Paragraphs are separated by empty lines; those that do not end like a sentence are headings and are left out, as are
    illustrations. A sentence ends at ``.``, ``!`` or ``?`` with closing quotes before a capital, but not behind one of
    :data:`ABBREVIATIONS` or a single letter. Tokens are words, with inner apostrophes and hyphens but without ``'s``,
    and single marks.

    Args:
        text: The text, as :func:`normscope.data.readers.novels.read_novels` returns it.
    """
    found = []
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        if line.startswith("[") or not line.rstrip("_*").endswith(_FULL):
            continue
        begin = 0
        for end in _END.finditer(line):
            before = end[1]
            if end[0][len(before)] == "." and (before.lower() in ABBREVIATIONS or (len(before) == 1 and before != "I")):
                continue
            found.append(_TOKEN.findall(line[begin : end.end()]))
            begin = end.end()
        found.append(_TOKEN.findall(line[begin:]))
    return [tokens for tokens in found if tokens]


def find_names(book: Iterable[Sequence[str]], *, least: int = 3) -> frozenset[str]:
    """Return the words of a book that are names.

    A name begins with a capital wherever it stands behind a lower-case word or a comma, at least ``least`` times, and
    stands in lower case at most once in twenty times. Words in capitals, ``I`` and its contractions, and
    :data:`TITLES` are no names.

    Args:
        book: Sentences, as :func:`sentences` returns them.
        least: Minimum number of such places.
    """
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for tokens in book:
        for before, token in pairwise(tokens):
            if token[0].islower():
                small[token] += 1
            elif token[0].isupper() and (before[0].islower() or before == "," or before.lower() in TITLES):
                capital[token] += 1
    return frozenset(
        word
        for word, count in capital.items()
        if count >= least
        and not (word.isupper() or word.startswith("I'"))
        and word.lower() not in TITLES
        and small[word.lower()] * 19 <= count
    )


def find_nouns(books: Iterable[Sequence[str]], *, least: int = 20, share: float = 0.12) -> frozenset[str]:
    """Return the common nouns of books.

    A noun stands often between one of :data:`DETERMINERS` and one of :data:`FOLLOWERS`, which adjectives and verbs do
    not: in at least the given share of its places. :data:`NOT_NOUNS`, and words of fewer than three letters, are no
    nouns.

    Args:
        books: Sentences of all books, as :func:`sentences` returns them.
        least: Minimum number of occurrences in lower case.
        share: Minimum share of occurrences between a determiner and a follower.
    """
    total: Counter[str] = Counter()
    between: Counter[str] = Counter()
    for tokens in books:
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if token[0].islower():
                total[token] += 1
                between[token] += before.lower() in DETERMINERS and after in FOLLOWERS
    return frozenset(
        word
        for word, count in total.items()
        if count >= least and between[word] >= share * count and len(word) > 2 and word not in NOT_NOUNS
    )
