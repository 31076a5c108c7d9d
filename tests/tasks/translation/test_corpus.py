"""Encoded corpora: what comes back, what is left out, damage and memory."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from normscope.tasks.translation import corpus, subwords
from normscope.tasks.translation.corpus import PairFilter, encode_pairs
from normscope.tasks.translation.subwords import Subwords, learn

pytest.importorskip("sentencepiece")

PAIRS = [
    ("a man runs", "ein Mann rennt"),
    ("a dog", "ein Hund"),
    ("", "nichts"),
    ("the man and the dog run fast", "der Mann und der Hund rennen schnell"),
    ("a dog", ""),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(subwords, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(corpus, "cache_folder", lambda: tmp_path)
    return tmp_path / "corpora"


@pytest.fixture
def vocabulary() -> Subwords:
    return learn(["pairs"], [text for pair in PAIRS for text in pair], 40)


def never() -> Iterator[tuple[str, str]]:
    raise AssertionError("the pairs were read")
    yield


def test_what_was_written_comes_back(vocabulary: Subwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_CHUNK", 2)
    seen = []
    encoded = encode_pairs(["x"], iter(PAIRS), vocabulary, callback=seen.append)
    assert seen == [2, 4, 5]
    assert len(encoded) == len(PAIRS)
    for index, (source, target) in enumerate(PAIRS):
        assert encoded.source[index].tolist() == vocabulary.encode(source)
        assert encoded.target[index].tolist() == vocabulary.encode(target)
        assert encoded.lengths[index] == max(len(vocabulary.encode(source)), len(vocabulary.encode(target))) + 1
    assert isinstance(encoded.source.tokens, np.memmap)
    assert encoded.source.tokens.dtype == np.uint16
    assert encoded.source.offsets.dtype == encoded.source.lengths.dtype == np.int64
    assert encoded.description == "5 pairs"


def test_files_are_plain_numpy_ones(vocabulary: Subwords, cache: Path) -> None:
    encode_pairs(["x"], PAIRS, vocabulary)
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*corpus._FILES, corpus._RECORD])
    tokens = np.load(folder / "target_tokens.npy")
    assert tokens.tolist() == [token for _, target in PAIRS for token in vocabulary.encode(target)]


def test_what_the_filter_leaves_out_is_counted(vocabulary: Subwords) -> None:
    lengths = [tuple(len(vocabulary.encode(text)) for text in pair) for pair in PAIRS]
    longest = max(lengths[3])
    keep = PairFilter(max_length=longest - 1, max_ratio=3.0)
    encoded = encode_pairs(["x"], PAIRS, vocabulary, keep=keep)
    assert dict(encoded.dropped) == {"empty": 2, "too long": 1, "lengths too different": 0}
    assert encoded.description == "2 pairs; left out: 2 empty, 1 too long"
    assert [encoded.source[i].tolist() for i in range(2)] == [vocabulary.encode(PAIRS[i][0]) for i in (0, 1)]
    with pytest.raises(ValueError, match=r"all 5 were left out: \{'empty': 2, 'too long': 3"):
        encode_pairs(["x"], PAIRS, vocabulary, keep=PairFilter(max_length=1, max_ratio=9.0))


def test_the_filter_by_hand() -> None:
    keep = PairFilter(max_length=10, max_ratio=1.5)
    cases = {(10, 10): None, (11, 10): "too long", (3, 2): None, (2, 3): None, (0, 5): "empty", (0, 0): "empty"}
    cases |= {(4, 2): "lengths too different", (2, 4): "lengths too different", (7, 10): None}
    assert {lengths: keep.reason(*lengths) for lengths in cases} == cases


def test_the_cache_is_used_and_damage_mended(vocabulary: Subwords, cache: Path) -> None:
    first = encode_pairs(["x"], PAIRS, vocabulary)
    again = encode_pairs(["x"], never(), vocabulary)
    assert again.sha256 == first.sha256
    np.testing.assert_array_equal(again.target.tokens, first.target.tokens)
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    for name in (*corpus._FILES, corpus._RECORD):
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(AssertionError, match="the pairs were read"):
            encode_pairs(["x"], never(), vocabulary)
        mended = encode_pairs(["x"], PAIRS, vocabulary)
        assert mended.sha256 == first.sha256
        assert mended.source[3].tolist() == vocabulary.encode(PAIRS[3][0])
    (folder / "source_tokens.npy").unlink()
    assert encode_pairs(["x"], PAIRS, vocabulary).sha256 == first.sha256
    (folder / corpus._RECORD).write_text(json.dumps([1]))
    assert encode_pairs(["x"], PAIRS, vocabulary).sha256 == first.sha256


def test_a_failure_leaves_nothing_that_looks_whole(vocabulary: Subwords, cache: Path) -> None:
    def broken() -> Iterator[tuple[str, str]]:
        yield PAIRS[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        encode_pairs(["x"], broken(), vocabulary)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    assert len(encode_pairs(["x"], PAIRS, vocabulary)) == len(PAIRS)


def test_names_tell_texts_filters_and_vocabularies_apart(vocabulary: Subwords, cache: Path) -> None:
    other = learn(["pairs"], [text for pair in PAIRS for text in pair], 41)
    keep = PairFilter(max_length=100, max_ratio=3.0)
    corpora = [
        encode_pairs(["x"], PAIRS, vocabulary),
        encode_pairs(["y"], PAIRS[:2], vocabulary),
        encode_pairs(["x"], PAIRS, other),
        encode_pairs(["x"], PAIRS, vocabulary, keep=keep),
    ]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 4
    assert len({each.sha256 for each in corpora}) == 4


def test_memory_does_not_grow_with_the_corpus(vocabulary: Subwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_CHUNK", 256)

    def peak(count: int) -> int:
        tracemalloc.start()
        encode_pairs([str(count)], (PAIRS[i % 2] for i in range(count)), vocabulary)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # Offsets are read into memory at the end, 2 x 8 bytes a pair, and nothing else.
    small, large = peak(2_000), peak(20_000)
    print(f"peaks {small:,} and {large:,} bytes")
    assert large < small + 20_000 * 2 * 8 + 300_000


def test_a_large_vocabulary_takes_wider_ids() -> None:
    # Every character is a piece: 70,000 ideographs are more than 16 bits tell apart.
    characters = [chr(0x20000 + index) for index in range(40_000)] + [chr(0x4E00 + index) for index in range(20_000)]
    characters += [chr(0xAC00 + index) for index in range(10_000)]
    wide = learn(["wide"], characters, 70_005)
    encoded = encode_pairs(["x"], [(characters[0], text) for text in characters[::1000]], wide)
    assert encoded.target.tokens.dtype == np.int32
    assert encoded.target.tokens.max() > np.iinfo(np.uint16).max
    for index, text in enumerate(characters[::1000]):
        assert encoded.target[index].tolist() == wide.encode(text)
