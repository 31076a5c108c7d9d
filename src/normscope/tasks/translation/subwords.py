"""Subwords: a byte-pair vocabulary learned from text, the same to the byte every time, and kept in the cache."""

import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from normscope.data.store import cache_folder

PAD, UNK, BOS, EOS = range(4)
"""Ids of padding, of unknown characters, of a sentence's beginning and of its end, in every vocabulary."""

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
    # How many pieces there are is checked here, where the error can be a better one.
    "hard_vocab_limit": "false",
    "minloglevel": 2,
}
"""What a vocabulary is learned with; part of its name in the cache."""

# The trainer leaves out longer words without a word; in bytes its bound is four times this.
_LONGEST_WORD = 1000

# Two characters that the trainer keeps for itself: it would leave out every word with one of them.
_RESERVED = re.compile("[\0\u2585]")


@dataclass(frozen=True)
class Subwords:
    """A vocabulary of subwords.

    Text is taken as it is, but for its white space: ``decode(encode(text))`` is ``" ".join(text.split())`` for every
    text whose characters were all seen in learning, U+2581 excepted, which is the mark of a space. Nothing is made
    lower-case, and no Unicode form is changed into another.
    """

    model: bytes
    """The model, in sentencepiece's own form."""

    @cached_property
    def sha256(self) -> str:
        """Hash of the model, to be recorded with every run."""
        return sha256(self.model).hexdigest()

    @cached_property
    def size(self) -> int:
        """How many pieces there are, the four special ones included; ids are below."""
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Give a sentence's ids, without beginning and end; a character that was never seen is :data:`UNK`."""
        return self._processor.encode(_spaced(text))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many sentences, in one thread."""
        return self._processor.encode([_spaced(text) for text in texts], num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        """Give the sentence of ids; padding, beginning and end vanish, an unknown character becomes ``⁇``.

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
    """Learn a joint byte-pair vocabulary, or take it from the cache, where one of the same origin was kept.

    Memory grows with the number of different words, not with that of lines. The model depends on how often each word
    stands in the text, not on the order of the lines. For languages that share the vocabulary, chain their lines.

    Args:
        name_parts: What the text is: hashes of its files, all of the training side, and what was done to them.
        lines: The text, read only where the cache has no whole model.
        size: Pieces, the four special ones included.

    Returns:
        The vocabulary.

    Raises:
        ValueError: If the text has no words or a NUL character, its characters alone are more than ``size``, or it
            does not give so many pieces; the message says how many it gives.
        ImportError: If sentencepiece is not installed.

    References:
        Sennrich, Haddow and Birch (2016). Neural machine translation of rare words with subword units, section 3.2.
    """
    from filelock import FileLock

    folder = cache_folder() / "vocabularies"
    path = folder / f"{_name(name_parts, size)}.model"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{path.name}.lock"):
        model = _cached(path)
        if model is None:
            model = _learned(lines, size)
            # The digest comes last: without it the model counts as damaged.
            for target, content in ((path, model), (_digest_of(path), sha256(model).hexdigest().encode())):
                _write(target, content)
    return Subwords(model)


def _name(name_parts: Sequence[str], size: int) -> str:
    origin = [*name_parts, str(size), repr(sorted(OPTIONS.items())), _sentencepiece().__version__]
    return sha256("\n".join(map(repr, origin)).encode()).hexdigest()


def _cached(path: Path) -> bytes | None:
    """Read a model, if it is there with the digest that was written after it."""
    if not path.is_file() or not _digest_of(path).is_file():
        return None
    model = path.read_bytes()
    return model if sha256(model).hexdigest().encode() == _digest_of(path).read_bytes() else None


def _learned(lines: Iterable[str], size: int) -> bytes:
    """Count the words and learn from the counts, which gives the pieces that the lines themselves would give.

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
    """Count the words between white space; a very long one is cut into pieces.

    Raises:
        ValueError: If there are none, or one has a character that cannot be learned.
    """
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        if _RESERVED.search(line):
            raise ValueError(f"line {number} has a NUL or U+2585, which sentencepiece keeps for itself: {line[:80]!r}")
        for word in line.split():
            counts.update(word[start : start + _LONGEST_WORD] for start in range(0, len(word), _LONGEST_WORD))
    if not counts:
        raise ValueError("expected text to learn subwords from, got no words")
    return counts


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _sentencepiece() -> Any:
    """Import sentencepiece.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "subwords need sentencepiece, which is not here: `pip install normscope[text]` brings it"
        ) from error
    return sentencepiece
