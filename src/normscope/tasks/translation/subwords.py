"""Subwords: byte-pair vocabularies, learned reproducibly to the byte, and cached."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from normscope.files import cache_folder, create_in_cache, write_atomically

PAD, UNK, BOS, EOS = range(4)
"""Ids of padding, unknown characters, beginning of sentence and end of sentence in every vocabulary."""

OPTIONS: dict[str, str | int | float] = {
    "model_type": "bpe",
    "character_coverage": 1.0,
    "normalization_rule_name": "identity",
    "input_format": "tsv",
    "pad_id": PAD,
    "unk_id": UNK,
    "bos_id": BOS,
    "eos_id": EOS,
    "num_threads": 1,
    # The number of pieces is checked below, with a clearer error.
    "hard_vocab_limit": "false",
    "minloglevel": 2,
}
"""Options of the trainer; part of the file name in the cache."""

# The trainer silently drops longer words; its bound is four times this number in bytes.
_LONGEST_WORD = 1000

# Characters reserved by the trainer, which drops every word that contains them.
_RESERVED = re.compile("[\0\u2585]")


@dataclass(frozen=True)
class Subwords:
    """A vocabulary of subwords.

    Only white space is normalized: ``decode(encode(text))`` is ``" ".join(text.split())`` for every text whose
    characters all occur in the training text, except U+2581, which marks a space. Neither case nor Unicode
    normalization form is changed.
    """

    model: bytes
    """The model, in sentencepiece's format."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the model, recorded with every run."""
        return sha256(self.model).hexdigest()

    @cached_property
    def size(self) -> int:
        """Number of pieces, the four special ones included; ids are smaller."""
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a sentence, without beginning and end; unknown characters are :data:`UNK`."""
        return self._processor.encode(_spaced(text))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many sentences, in a single thread."""
        return self._processor.encode([_spaced(text) for text in texts], num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a sequence of ids, without padding, beginning and end; unknown characters become ``⁇``.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        wrong = [index for index in ids if not 0 <= index < self.size]
        if wrong:
            raise ValueError(f"ids must be 0 to {self.size - 1}, got {wrong[:5]}")
        return self._processor.decode([int(index) for index in ids])

    @cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)

    def __getstate__(self) -> dict[str, bytes]:
        return {"model": self.model}


def learn(name_parts: Sequence[str], lines: Iterable[str], size: int) -> Subwords:
    """Learn a joint byte-pair vocabulary, or read it from the cache.

    Memory grows with the number of distinct words, not with the number of lines. The model depends on the counts of
    the words, not on the order of the lines. For a vocabulary of two languages, chain their lines.

    Args:
        name_parts: Identity of the text, for the cache: hashes of its files and the preprocessing.
        lines: The training text; read only if the cache has no valid model.
        size: Number of pieces, the four special ones included.

    Returns:
        The vocabulary.

    Raises:
        ValueError: If the text has no words or contains a reserved character, has more characters than ``size``, or
            yields fewer pieces than ``size``; the message contains the largest possible size.
        ImportError: If sentencepiece is not installed.
        CacheUnusable: If the vocabulary is not in the cache, and the cache cannot be written.

    References:
        Sennrich, Haddow and Birch (2016). Neural machine translation of rare words with subword units, section 3.2.
    """
    from filelock import FileLock

    folder = cache_folder() / "vocabularies"
    path = folder / f"{_name(name_parts, size)}.model"
    if model := _cached(path):
        return Subwords(model)
    create_in_cache(folder)
    with FileLock(folder / f".{path.name}.lock"):
        model = _cached(path)
        if model is None:
            model = _learned(lines, size)
            # The digest is written last: a model without it is invalid.
            for target, content in ((path, model), (_digest_of(path), sha256(model).hexdigest().encode())):
                write_atomically(target, content)
    return Subwords(model)


def _name(name_parts: Sequence[str], size: int) -> str:
    origin = [*name_parts, str(size), repr(sorted(OPTIONS.items())), _sentencepiece().__version__]
    return sha256("\n".join(map(repr, origin)).encode()).hexdigest()


def _cached(path: Path) -> bytes | None:
    """Return the cached model, or None if it is missing or does not match its digest."""
    if not path.is_file() or not _digest_of(path).is_file():
        return None
    model = path.read_bytes()
    return model if sha256(model).hexdigest().encode() == _digest_of(path).read_bytes() else None


def _learned(lines: Iterable[str], size: int) -> bytes:
    """Learn from word counts, which yields the same pieces as learning from the lines.

    Raises:
        ValueError: As :func:`learn`.
    """
    counts = _count_words(lines)
    least = len({character for word in counts for character in word}) + len((PAD, UNK, BOS, EOS)) + 1
    if size < least:
        raise ValueError(f"{size} pieces are too few: the characters of this text and the special pieces are {least}")
    stream = io.BytesIO()
    _sentencepiece().SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{count}" for word, count in counts.items()),
        model_writer=stream,
        vocab_size=size,
        **OPTIONS,
    )
    most = Subwords(stream.getvalue()).size
    if most < size:
        raise ValueError(f"{size} pieces are too many: this text gives at most {most}")
    return stream.getvalue()


def _count_words(lines: Iterable[str]) -> Counter[str]:
    """Count the words between white space; very long words are split.

    Raises:
        ValueError: If there are no words, or a line contains a reserved character.
    """
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        if _RESERVED.search(line):
            raise ValueError(f"line {number} contains NUL or U+2585, which sentencepiece reserves: {line[:80]!r}")
        for word in line.split():
            counts.update(word[start : start + _LONGEST_WORD] for start in range(0, len(word), _LONGEST_WORD))
    if not counts:
        raise ValueError("expected text to learn subwords from, got no words")
    return counts


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sentencepiece() -> Any:
    """Import sentencepiece.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "subwords need sentencepiece, which is not installed: run `pip install normscope[text]`"
        ) from error
    return sentencepiece
