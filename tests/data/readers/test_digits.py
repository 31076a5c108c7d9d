import difflib
import gzip
import itertools

import numpy as np
import pytest
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from normscope.data.readers.images import SHEETS, load_digits, read_digits


def test_images_and_labels_are_those_of_scikit_learn_in_file_order():
    parts, want = load_digits(), datasets.load_digits()
    x = np.concatenate([parts.train.x, parts.valid.x, parts.test.x])
    y = np.concatenate([parts.train.y, parts.valid.y, parts.test.y])
    assert x.dtype == np.uint8
    assert y.dtype == np.int64
    np.testing.assert_array_equal(x, want.images)
    np.testing.assert_array_equal(y, want.target)


def test_parts_have_the_promised_sizes_and_every_class():
    parts = load_digits()
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (1029, 258, 510)
    for part, least in ((parts.train, 97), (parts.valid, 24), (parts.test, 46)):
        counts = np.bincount(part.y, minlength=10)
        assert counts.min() >= least, counts
    assert list(parts.hashes) == ["digits.csv.gz"]


def test_no_image_is_in_two_parts():
    parts = load_digits()
    seen = [{image.tobytes() for image in part.x} for part in (parts.train, parts.valid, parts.test)]
    assert not seen[0] & seen[1]
    assert not seen[2] & (seen[0] | seen[1])


def test_each_sheet_is_the_same_printed_text_less_a_few_digits():
    labels = "".join(map(str, datasets.load_digits().target))
    text = labels[: SHEETS[1]]
    assert text.startswith("0123456789" * 3)
    assert SHEETS[-1] == len(labels)
    for begin, end in itertools.pairwise(SHEETS):
        sheet = labels[begin:end]
        matcher = difflib.SequenceMatcher(None, text, sheet, autojunk=False)
        kept = sum(block.size for block in matcher.get_matching_blocks())
        # A boundary off by k puts k digits of a neighbour here; one sheet has one digit copied wrongly.
        assert kept >= len(sheet) - 1, (begin, end)


def test_a_table_of_another_width_is_refused(tmp_path):
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(ValueError, match=r"d.csv.gz has 3 numbers per line, expected 64 pixels and a label"):
        read_digits(tmp_path / "d.csv.gz")


@pytest.mark.parametrize(("pixel", "label"), [(17, 3), (-1, 3), (0, 10)])
def test_values_out_of_range_are_refused(tmp_path, pixel, label):
    line = ",".join(map(str, [pixel] + [0] * 63 + [label]))
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(line.encode()))
    with pytest.raises(ValueError, match="expected 0 to 16 and 0 to 9"):
        read_digits(tmp_path / "d.csv.gz")


def test_a_split_inside_sheets_flatters_every_classifier():
    digits = load_digits()
    parts = (digits.train, digits.valid, digits.test)
    x = np.concatenate([part.x for part in parts]).reshape(-1, 64) / 16.0
    y = np.concatenate([part.y for part in parts])
    turn = np.arange(len(y)) % 10
    sheets = np.repeat([0, 1, 2], [len(part) for part in parts])
    right = {}
    for name, make in (
        ("logistic regression", lambda: LogisticRegression(max_iter=5000)),
        ("3 nearest neighbours", lambda: KNeighborsClassifier(3)),
    ):
        for split, train, test in (("dealt out", turn < 6, turn >= 7), ("whole sheets", sheets == 0, sheets == 2)):
            right[name, split] = 100 * make().fit(x[train], y[train]).score(x[test], y[test])
            print(f"{name}, {split}: {right[name, split]:.1f} % of test images right")
        assert right[name, "dealt out"] > right[name, "whole sheets"] + 1
