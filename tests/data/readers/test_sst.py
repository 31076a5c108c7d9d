import gzip
import re
from collections import Counter

import numpy as np
import pytest

from normscope.data.readers.sentences import load_sst, parse_tree, read_trees
from normscope.data.registry import SETS
from normscope.data.store import locate
from support.data_sets import PHRASES


def test_trees_are_read_to_sentences_with_the_labels_of_their_roots(small_data):
    splits = load_sst()
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == list(PHRASES.values())
    lines = gzip.decompress((small_data / "sst" / "trees" / "dev.txt.gz").read_bytes()).decode().split("\n")[:-1]
    assert splits.valid.labels.tolist() == [int(line[1]) for line in lines]
    assert splits.valid.sentences == tuple(" ".join(re.findall(r"([^() ]+)\)", line)) for line in lines)
    words = {word for sentence in splits.train.sentences for word in sentence.split(" ")}
    assert {"-LRB-", "-RRB-", "and\\/or", "1\xa01\\/2"} <= words
    assert splits.hashes == SETS["sst"].hashes


@pytest.mark.real_data("sst")
def test_the_counts_are_the_published_ones():
    sst = load_sst()
    labels = [np.bincount(part.labels).tolist() for part in (sst.train, sst.valid, sst.test)]
    assert labels == [[1092, 2218, 1624, 2322, 1288], [139, 289, 229, 279, 165], [279, 633, 389, 510, 399]]
    assert (len(sst.train), len(sst.valid), len(sst.test)) == (8544, 1101, 2210)


@pytest.mark.real_data("sst")
def test_sentences_and_labels_are_those_of_another_preparation():
    sst = load_sst()
    folder = locate(SETS["sst"])["train.txt.gz"].parents[1]
    for part, name in ((sst.train, "train"), (sst.valid, "dev"), (sst.test, "test")):
        path = folder / f"stsa.fine.{name}.gz"
        if not path.is_file():
            pytest.skip(f"{path} is not here")
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]
        mine = Counter(
            f"{label} {sentence.lower()}" for label, sentence in zip(part.labels, part.sentences, strict=True)
        )
        assert mine == Counter(lines)


@pytest.mark.real_data("sst")
@pytest.mark.parametrize(("name", "phrases"), [("train", 318_582), ("dev", 41_447), ("test", 82_600)])
def test_every_published_phrase_has_its_label(name, phrases):
    assert sum(len(tree.phrases) for tree in check_trees(name)) == phrases


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", PHRASES)
def test_every_phrase_has_its_label(name):
    assert len(check_trees(name)) == PHRASES[name]


def check_trees(name):
    trees = list(read_trees(locate(SETS["sst"])[f"{name}.txt.gz"]))
    assert all(len(tree.phrases) == 2 * len(tree.words) - 1 for tree in trees)
    assert all(tree.phrases[-1] == (tree.label, 0, len(tree.words)) for tree in trees)
    return trees


def test_a_tree_by_hand():
    tree = parse_tree("(3 (2 It) (4 (4 (2 -LRB-) (3 really\\/very)) (2 1\xa01)))", where="w")
    assert tree.label == 3
    assert tree.sentence == "It -LRB- really\\/very 1\xa01"
    assert tree.phrases == ((2, 0, 1), (2, 1, 2), (3, 2, 3), (4, 1, 3), (2, 3, 4), (4, 1, 4), (3, 0, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the line ends inside the tree, with 0 nodes open"),
        ("(3 (2 a) (2 b)", "the line ends inside the tree, with 1 nodes open"),
        ("(3 (2 a) (2 b", "the line ends inside the tree, with 2 nodes open"),
        ("(3", "the line ends inside the tree, with 1 nodes open"),
        ("(", "a node begins with 'the end', expected a label 0 to 4"),
        ("(5 a)", "a node begins with '5', expected a label 0 to 4"),
        ("(-1 a)", "a node begins with '-1'"),
        ("(x a)", "a node begins with 'x'"),
        ("((2 a) (2 b))", r"a node begins with '\('"),
        ("a", r"found 'a', expected '\('"),
        (")", r"found '\)', expected '\('"),
        ("(2 )", "a node ends with 0 words in 0 nodes, expected one word or two nodes"),
        ("(2 a b)", "a node ends with 2 words in 0 nodes"),
        ("(2 (2 a))", "a node ends with 1 words in 1 nodes"),
        ("(2 (2 a) (2 b) (2 c))", "a node ends with 3 words in 3 nodes"),
        ("(2 a (2 b))", "a node holds the word 'a' and a node"),
        ("(2 (2 b) a)", "a node holds a node and the word 'a'"),
        ("(2 a))", r"there is '\)' after the tree's end"),
        ("(2 a) (2 b)", r"there is '\(' after the tree's end"),
    ],
)
def test_a_broken_tree_is_refused_with_file_and_line(tmp_path, text, words):
    (tmp_path / "t.txt").write_text(f"(2 good)\n{text}\n")
    reader = read_trees(tmp_path / "t.txt")
    assert next(reader).sentence == "good"
    with pytest.raises(ValueError, match=rf"t\.txt, line 2: {words}"):
        next(reader)


def test_no_tree_is_too_deep():
    depth = 50_000
    tree = parse_tree("(1 (2 a) " * depth + "(2 b)" + ")" * depth, where="w")
    assert (tree.label, len(tree.words)) == (1, depth + 1)


def test_memory_does_not_grow_with_the_file(tmp_path, peak):
    line = b"(3 (2 a) (2 b))\n"
    (tmp_path / "t.gz").write_bytes(gzip.compress(line * 30_000))

    def count():
        assert sum(1 for _ in read_trees(tmp_path / "t.gz")) == 30_000

    # One tree and the buffers that unpack it; the unpacked text alone would be as large, the trees much larger.
    assert peak(count) < len(line) * 30_000
