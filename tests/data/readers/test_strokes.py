import io
import zipfile

import numpy as np
import pytest

from normscope.data import Drawings, DrawingSplits, load_strokes
from normscope.data.readers.strokes import read_strokes
from support import pen_data


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(("name", "seed", "zeros"), [("omniglot-strokes", 1, True), ("kanji-strokes", 2, False)])
def test_drawings_are_those_of_the_file(name, seed, zeros):
    splits, arrays = load_strokes(name), pen_data.arrays(seed, zeros=zeros)
    assert isinstance(splits, DrawingSplits)
    # The last training drawing is also a test drawing.
    assert splits.left_out == {"equal to a validation or test drawing": 1}
    for part in ("train", "valid", "test"):
        drawings: Drawings = getattr(splits, part)
        wanted = np.split(arrays[f"{part}_points"], np.cumsum(arrays[f"{part}_lengths"])[:-1])
        wanted = wanted[:-1] if part == "train" else wanted
        assert len(drawings) == len(wanted)
        for ours, theirs in zip(drawings, wanted, strict=True):
            assert np.array_equal(ours, theirs[1:] if zeros else theirs)
        assert drawings.points.dtype == np.int32
        assert drawings.texts == ()


@pytest.mark.real_data("omniglot-strokes", "kanji-strokes")
def test_published_drawings_are_counted():
    for name, counts, points, left_out in (
        ("omniglot-strokes", (30_000, 1000, 1000), 903_430, 0),
        ("kanji-strokes", (9992, 600, 500), None, 8),
    ):
        splits = load_strokes(name)
        assert tuple(map(len, (splits.train, splits.valid, splits.test))) == counts
        assert sum(splits.left_out.values()) == left_out
        assert points in (None, len(splits.train.points))


def good():
    return pen_data.arrays(1, zeros=True)


def broken(tmp_path, **changes):
    path = tmp_path / "a.npz"
    path.write_bytes(pen_data.packed({**good(), **changes}))
    return path


def refused(path, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_strokes(path, begins_with_zeros=True)
    assert str(path) in str(caught.value)


def test_a_wrong_array_is_refused(tmp_path):
    points, lengths = good()["valid_points"], good()["valid_lengths"]
    refused(broken(tmp_path, other=points), "holds .*'other.npy'")
    refused(broken(tmp_path, valid_points=points.astype(np.int32)), "valid_points must be int16 .*, got int32")
    refused(
        broken(tmp_path, valid_points=points[:, :2]), r"valid_points must be int16 \[any, 3\], got int16 \[\d+, 2\]"
    )
    refused(broken(tmp_path, valid_lengths=lengths[:-1]), r"valid: the lengths add up to \d+ of \d+ points")
    refused(broken(tmp_path, valid_lengths=lengths[:0], valid_points=points[:0]), "valid: .* there is no drawing")
    short = lengths.copy()
    short[[3, 4]] = 1, lengths[3] + lengths[4] - 1
    refused(broken(tmp_path, valid_lengths=short), "valid: every drawing has a point, drawing 3 has length 1")


def test_a_wrong_point_is_refused(tmp_path):
    points, lengths = good()["test_points"], good()["test_lengths"]
    for row, column, value, words in (
        (7, 2, 3, "test_points: row 7 says 3 of the pen, expected 0 or 1"),
        (int(lengths[:2].sum()) - 1, 2, 0, "test: drawing 1 ends with the pen on the paper"),
        (int(lengths[:2].sum()), 1, 4, r"test: drawing 2 begins with \[0, 4, 0\], expected zeros"),
    ):
        changed = points.copy()
        changed[row, column] = value
        refused(broken(tmp_path, test_points=changed), words)


def test_pickles_and_headers_that_promise_more_are_refused(tmp_path, peak):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i2", "fortran_order": False, "shape": (2**40, 3)})
    path = tmp_path / "b.npz"
    np.savez(path, **{**good(), "train_points": np.array([{}])})
    refused(path, "train_points is not a whole .npy array: object .* with objects")
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in good().items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", stream.getvalue() if name == "train_points" else content.getvalue())
    assert peak(lambda: refused(path, "train_points is not a whole .npy array: 0 bytes, which do not fit")) < 2**22
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "is not a whole zip file")
