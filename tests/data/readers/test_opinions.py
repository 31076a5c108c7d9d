"""CR, SUBJ and MPQA, and the splits that a seed draws of them, of RT and of the digits."""

import gzip
import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from normscope.data import load_cr, load_digits, load_mpqa, load_rt, load_subj
from normscope.data.readers.images import SHEETS
from normscope.data.registry import SETS
from normscope.data.store import locate
from support.data_sets import OPINION_COUNTS, OPINIONS

READERS = {"custrev": load_cr, "subj": load_subj, "mpqa": load_mpqa}


def parts(splits):
    return splits.train, splits.valid, splits.test


def counted(splits):
    return Counter(
        (sentence, int(label))
        for part in parts(splits)
        for sentence, label in zip(part.sentences, part.labels, strict=True)
    )


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("seed", [None, 0])
def test_sentences_and_labels_are_those_of_the_files(small_data, name, seed):
    paths = locate(SETS[name])
    wanted = Counter()
    for label, kind in enumerate(OPINIONS[name]):
        lines = gzip.decompress(paths[f"{name}.{kind}.gz"].read_bytes()).decode().split("\n")
        wanted += Counter((line.strip(), label) for line in lines if line.strip())
    splits = READERS[name](seed=seed)
    assert counted(splits) == wanted
    assert splits.hashes == SETS[name].hashes
    total = sum(wanted.values())
    assert total >= sum(OPINION_COUNTS)
    assert [len(part) / total for part in parts(splits)] == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    for part in parts(splits):
        assert part.labels.mean() == pytest.approx(sum(label for _, label in wanted.elements()) / total, abs=0.02)


@pytest.mark.real_data("custrev", "subj", "mpqa")
def test_the_published_files_have_the_stated_sentences():
    for name, negative, positive, distinct in (
        ("custrev", 1366, 2405, 3765),
        ("subj", 5000, 5000, 10_000),
        ("mpqa", 7292, 3311, 8240),
    ):
        found = counted(READERS[name]())
        assert [sum(n for (_, label), n in found.items() if label == kind) for kind in (0, 1)] == [negative, positive]
        assert len({sentence for sentence, _ in found}) == distinct
    both = Counter(sentence for sentence, _ in counted(load_mpqa()))
    assert sum(count == 2 for count in both.values()) == 98


@pytest.mark.parametrize("read", [load_rt, load_cr, load_subj, load_mpqa])
def test_equal_sentences_are_in_one_part_for_every_seed(small_data, read):
    tested = []
    for seed in (None, 0, 1, 2):
        splits = read(seed=seed)
        sets = [set(part.sentences) for part in parts(splits)]
        assert len(sets[0] | sets[1] | sets[2]) == sum(map(len, sets))
        tested.append(frozenset(splits.test.sentences))
    assert len(set(tested)) == 4
    # A tenth of the sentences that one seed tests is tested by another.
    for one, other in itertools.combinations(tested, 2):
        assert len(one & other) / len(one) == pytest.approx(0.1, abs=0.08)


def test_a_seed_orders_sentences_by_the_hash_of_its_stream(small_data):
    splits = load_rt(seed=7)
    kinds = {sentence: int(label) for sentence, label in counted(splits)}
    for label in (0, 1):
        members = [sentence for sentence, kind in kinds.items() if kind == label]
        members.sort(key=lambda sentence: hashlib.sha256(b"7/split\n" + sentence.encode()).digest())
        assert set(members[len(members) * 9 // 10 :]) == set(splits.test.sentences) & set(members)


@pytest.mark.parametrize("read", [load_rt, load_cr, load_subj, load_mpqa])
def test_a_fold_and_a_seed_exclude_each_other(read):
    with pytest.raises(ValueError, match="a fold is of the fixed split: give fold or seed, got fold=3 and seed=0"):
        read(3, seed=0)
    with pytest.raises(ValueError, match="fold is 10, expected None or 0 to 9"):
        read(10)


def test_a_seed_deals_out_whole_sheets_of_digits():
    whole = load_digits()
    images = np.concatenate([part.x for part in parts(whole)])
    sheets = [images[begin:end] for begin, end in itertools.pairwise(SHEETS)]
    dealt = []
    for seed in range(40):
        splits = load_digits(seed)
        order = sorted(range(14), key=lambda sheet: hashlib.sha256(f"{seed}/split\n{sheet}".encode()).digest())
        for part, chosen in zip(parts(splits), (order[:8], order[8:10], order[10:]), strict=True):
            np.testing.assert_array_equal(part.x, np.concatenate([sheets[sheet] for sheet in sorted(chosen)]))
        assert splits.held_for_tuning == len(sheets[max(order[:8])])
        assert sum(map(len, parts(splits))) == len(images)
        assert [len(part) for part in parts(splits)] == pytest.approx([1027, 257, 513], abs=16)
        dealt.append(order[10:])
    # Every sheet is tested by about 4 of 14 seeds.
    tests = np.bincount(np.concatenate(dealt), minlength=14)
    assert tests.min() >= 3
    assert tests.max() <= 20
