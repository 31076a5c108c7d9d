import gzip

import numpy as np
import pytest

from normscope.data.readers.sentences import ENCODING, hundredths, load_rt
from normscope.data.registry import SETS
from normscope.data.store import locate
from support.data_sets import REVIEWS


@pytest.fixture
def rt():
    return load_rt()


def parts(splits):
    return splits.train, splits.valid, splits.test


@pytest.mark.real_data("rt-polarity")
def test_the_fixed_split_is_whole_balanced_and_disjoint(rt):
    assert [len(part) for part in parts(rt)] == [8530, 1066, 1066]
    assert [part.labels.mean() for part in parts(rt)] == [0.5, 0.5, 0.5]
    assert all(part.labels.dtype == np.int64 and len(part.labels) == len(part) for part in parts(rt))
    sets = [set(part.sentences) for part in parts(rt)]
    # 10,662 distinct ones: the files have no sentence twice, so none can be in two parts.
    assert len(sets[0] | sets[1] | sets[2]) == sum(map(len, sets)) == 10_662


def test_sentences_and_labels_are_those_of_the_files(small_data, rt):
    paths = locate(SETS["rt-polarity"])
    assert [len(part) for part in parts(rt)] == [REVIEWS * 16 // 10, REVIEWS * 2 // 10, REVIEWS * 2 // 10]
    assert [part.labels.mean() for part in parts(rt)] == [0.5, 0.5, 0.5]
    found = {
        (sentence, int(label))
        for part in parts(rt)
        for sentence, label in zip(part.sentences, part.labels, strict=True)
    }
    for name, label in (("neg", 0), ("pos", 1)):
        lines = gzip.decompress(paths[f"rt-polarity.{name}.gz"].read_bytes()).decode("cp1252").split("\n")
        assert lines.pop() == ""
        assert len(lines) == REVIEWS
        assert {(line, label) for line in lines} == {pair for pair in found if pair[1] == label}


def test_windows_characters_are_read_as_such(small_data, rt):
    text = text_of(rt)
    assert all(text.count(character) for character in "\u2013\u2014\u2026\u2018é")
    assert not any("\x80" <= character <= "\x9f" for character in text)


def text_of(splits):
    return "\n".join(sentence for part in parts(splits) for sentence in part.sentences)


@pytest.mark.real_data("rt-polarity")
def test_windows_characters_of_the_published_files_are_all_there(rt):
    text = text_of(rt)
    # Bytes 0x96, 0x97, 0x85 and 0x91 of the two files, counted in their bytes.
    assert [text.count(character) for character in "\u2013\u2014\u2026\u2018"] == [34, 20, 33, 6]
    assert not any("\x80" <= character <= "\x9f" for character in text)


def test_over_the_folds_every_sentence_is_tested_once(small_data):
    tested = []
    for fold in range(10):
        splits = load_rt(fold)
        assert [len(part) for part in parts(splits)] == [
            pytest.approx(n * 2 * REVIEWS, abs=4) for n in (0.81, 0.09, 0.1)
        ]
        for part in parts(splits):
            assert abs(part.labels.mean() - 0.5) < 0.005
        sets = [set(part.sentences) for part in parts(splits)]
        assert len(sets[0] | sets[1] | sets[2]) == sum(map(len, sets)) == 2 * REVIEWS
        tested += splits.test.sentences
    assert len(tested) == len(set(tested)) == 2 * REVIEWS


@pytest.mark.parametrize("fold", [-1, 10])
def test_there_are_ten_folds(fold):
    with pytest.raises(ValueError, match=f"fold is {fold}, expected None or 0 to 9"):
        load_rt(fold)


@pytest.mark.real_data("rt-polarity")
def test_the_split_is_the_one_that_was_published(rt):
    # As it was when the split was made; another split is another task, and needs another stream.
    assert rt.test.sentences[0].startswith("exploitative and largely devoid of the depth or sophistication")
    assert rt.valid.sentences[0].startswith("a visually flashy but narratively opaque and emotionally vapid")
    assert rt.hashes.keys() == {"rt-polarity.pos.gz", "rt-polarity.neg.gz"}


def test_equal_sentences_are_dealt_to_one_part_whatever_their_label():
    sentences = tuple(f"s{n % 150}" for n in range(300))
    labels = (np.arange(300) >= 120).astype(np.int64)
    part = hundredths(sentences, labels, stream="s")
    np.testing.assert_array_equal(part[:150], part[150:])


def test_the_parts_depend_on_neither_the_order_nor_the_neighbours_label():
    sentences = tuple(f"s{n}" for n in range(400))
    labels = np.arange(400) % 2
    part = hundredths(sentences, labels, stream="s")
    assert np.bincount(part[labels == 0], minlength=100).tolist() == [2] * 100
    order = np.random.default_rng(0).permutation(400)
    again = hundredths(tuple(sentences[index] for index in order), labels[order], stream="s")
    np.testing.assert_array_equal(again, part[order])


def test_the_encoding_is_that_of_the_files():
    assert ENCODING == "cp1252"
