"""The CNN question files of Hermann et al.: an article, a sentence of its summary without an entity, the entities."""

import io
import re
from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.cloze import (
    BLANK,
    FIRST_IDENTIFIER,
    UNKNOWN,
    ClozeQuestions,
    ClozeSplits,
    Size,
    query_around,
    stack,
)
from normscope.data.readers.files import decode_lines, read_tar
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

PLACEHOLDER = "@placeholder"
PARTS = {"training": "train", "validation": "valid", "test": "test"}
"""Folders of the archive, and their parts."""

MOST_FILES, LARGEST_FILE = 500_000, 1 << 20
"""Limits of the archive: it has 387,420 questions, of up to some ten thousand bytes."""

_ENTITY = re.compile(r"@entity(0|[1-9][0-9]{0,3})")
_MEMBER = re.compile(r"cnn/questions/(training|validation|test)/[^/]+\.question")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question file."""

    url: str
    passage: tuple[str, ...]
    """Tokens of the article, entities as ``@entity12``."""
    query: tuple[str, ...]
    """Tokens of the question, with ``@placeholder``."""
    answer: str
    """The missing entity."""
    entities: dict[str, str]
    """Names of the entities by identifier."""


@check_arguments
def read_question(content: bytes, where: str) -> Question:
    r"""Read a question file: URL, article, question, answer and entities, separated by empty lines.

    Args:
        content: The file, in UTF-8.
        where: Name of the file in error messages.

    Raises:
        ValueError: If a byte is not UTF-8, a part is missing or has another number of lines, the question has no
            placeholder, the answer is no entity of the list, an entity of a text is not in it, or a line of the list is
            not ``@entityN:name`` or repeats one; the message contains file and line.
    """
    lines = list(decode_lines(io.BytesIO(content), encoding="utf-8", where=where))
    while lines and not lines[-1]:
        lines.pop()
    for number, name in enumerate(("URL", "article", "question", "answer")):
        filled = len(lines) > 2 * number + 1 and bool(lines[2 * number].strip()) and not lines[2 * number + 1].strip()
        if not filled:
            raise ValueError(f"{where}, line {2 * number + 1}: expected the {name} in a line, and then an empty line")
    url, passage, query, answer = (lines[n].strip() for n in (0, 2, 4, 6))
    entities: dict[str, str] = {}
    for number, line in enumerate(lines[8:], 9):
        entity, colon, name = line.partition(":")
        if not (colon and _ENTITY.fullmatch(entity) and name) or entity in entities:
            raise ValueError(f"{where}, line {number}: expected @entityN:name, each entity once, got {line[:80]!r}")
        entities[entity] = name
    if answer not in entities:
        raise ValueError(f"{where}, line 7: the answer {answer[:40]!r} is not among the {len(entities)} entities")
    tokens = {3: tuple(passage.split()), 5: tuple(query.split())}
    for number, text in tokens.items():
        for token in text:
            if token.startswith("@entity") and token not in entities:
                raise ValueError(f"{where}, line {number}: {token[:40]!r} is not among the {len(entities)} entities")
    if PLACEHOLDER not in tokens[5]:
        raise ValueError(f"{where}, line 5: the question has no {PLACEHOLDER}")
    return Question(url=url, passage=tokens[3], query=tokens[5], answer=answer, entities=entities)


@check_arguments
def load_cnn(size: Size, *, progress: Progress | None = None) -> ClozeSplits:
    """Read the CNN questions; the vocabulary is that of the training part.

    Raises ``DataNotFound`` if the archive is missing; its sha256 is not published, so ``DataUnverified`` warns of it.

    Args:
        size: How much is kept of a question. With ``sentences``, an article is cut to those that share most different
            words with the question, in their order; of equal ones the first.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the archive or a question file is malformed, a part is missing, or a word of the training part is
            not.
    """
    dataset = SETS["cnn-questions"]
    paths = locate(dataset, progress=progress)
    (path,) = paths.values()
    numbers: dict[str, int] = {}
    tokens: dict[str, list[tuple[array, array, int]]] = {part: [] for part in PARTS.values()}
    identifiers = 0
    for member, content in read_tar(path, most_members=MOST_FILES, most_bytes=LARGEST_FILE):
        if (place := _MEMBER.fullmatch(member)) is None:
            raise ValueError(f"{path} has {member!r}, expected cnn/questions/{{{','.join(PARTS)}}}/*.question")
        question = read_question(content, f"{path}:{member}")
        passage = question.passage if size.sentences is None else most_alike(question, size.sentences)
        coded = [
            array("i", [numbers.setdefault(word, len(numbers)) for word in text])
            for text in (passage[-size.passage :], query_around(question.query, size.around, PLACEHOLDER))
        ]
        identifiers = max(identifiers, *(int(entity[len("@entity") :]) + 1 for entity in question.entities))
        tokens[PARTS[place[1]]].append((coded[0], coded[1], int(question.answer[len("@entity") :])))
    if missing := [folder for folder, part in PARTS.items() if not tokens[part]]:
        raise ValueError(f"{path} has no questions in cnn/questions/{' and '.join(missing)}")
    words = list(numbers)
    frequent = Counter[int]()
    for passage, query, _ in tokens["train"]:
        frequent.update(passage)
        frequent.update(query)
    kept = [n for n, _ in frequent.most_common() if words[n] != PLACEHOLDER and not _ENTITY.fullmatch(words[n])]
    symbol = np.full(len(words), UNKNOWN, dtype=np.int32)
    symbol[kept[: size.words]] = np.arange(min(size.words, len(kept))) + FIRST_IDENTIFIER + identifiers
    for word, number in numbers.items():
        if entity := _ENTITY.fullmatch(word):
            symbol[number] = FIRST_IDENTIFIER + int(entity[1])
    symbol[numbers[PLACEHOLDER]] = BLANK
    none = np.empty(0, dtype=np.int32)
    parts: dict[str, ClozeQuestions] = {
        part: stack(
            [
                (symbol[np.array(one)], symbol[np.array(other)], none, FIRST_IDENTIFIER + answer, none, none)
                for one, other, answer in questions
            ],
            size,
        )
        for part, questions in tokens.items()
    }
    return ClozeSplits(
        train=parts["train"],
        valid=parts["valid"],
        test=parts["test"],
        held_for_tuning=max(1, len(parts["train"]) // 100),
        vocabulary=(
            "",
            "@unknown",
            "@blank",
            *(f"@entity{n}" for n in range(identifiers)),
            *(words[n] for n in kept[: size.words]),
        ),
        identifiers=identifiers,
        hashes=found_hashes(dataset, paths),
        counts={},
    )


def most_alike(question: Question, count: int) -> tuple[str, ...]:
    """Return the sentences of an article that share most different words with the question, in their order.

    A sentence ends with ``.``, ``?`` or ``!``. The code of Cooijmans et al. reads articles that were cut to four
    sentences by a string matching, which is not published.
    """
    sentences: list[list[str]] = [[]]
    for before, token in zip(("", *question.passage), question.passage, strict=False):
        if before in (".", "?", "!"):
            sentences.append([])
        sentences[-1].append(token)
    asked = set(question.query)
    chosen = sorted(range(len(sentences)), key=lambda n: (-len(asked.intersection(sentences[n])), n))[:count]
    return tuple(token for n in sorted(chosen) for token in sentences[n])
