import gzip
import struct

import numpy as np
import pytest

from normscope.data.readers.images import load_mnist, read_examples, read_idx
from normscope.data.registry import SETS
from support.data_sets import DIGITS


@pytest.fixture
def mnist():
    return load_mnist()


def packed(path, *sizes, body=None, magic=None):
    body = bytes(int(np.prod(sizes))) if body is None else body
    head = struct.pack(f">I{len(sizes)}I", 0x0800 + len(sizes) if magic is None else magic, *sizes)
    path.write_bytes(gzip.compress(head + body))
    return path


@pytest.mark.real_data("mnist")
def test_counts_first_labels_and_split_are_the_published_ones(mnist):
    train = np.bincount(np.concatenate([mnist.train.y, mnist.valid.y]))
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.x.shape == (55000, 28, 28)
    assert mnist.valid.x.shape == (5000, 28, 28)
    assert mnist.test.x.shape == (10000, 28, 28)
    assert mnist.train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert mnist.test.y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert mnist.hashes == SETS["mnist"].hashes


@pytest.mark.real_data("mnist")
def test_the_mean_and_deviation_are_the_widely_used_ones(mnist):
    pixels = np.concatenate([mnist.train.x, mnist.valid.x]) / 255
    # 0.1307 and 0.3081 stand in countless examples, rounded to four places.
    assert pixels.mean() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std() == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.real_data("mnist")
def test_an_image_has_its_pixels_the_right_way_round(mnist):
    image = mnist.train.x[3]
    # The fourth image is a slanted 1: ink in a diagonal band from the upper right to the lower left.
    rows, columns = np.nonzero(image > 127)
    assert np.corrcoef(rows, columns)[0, 1] < -0.8


def test_the_four_files_become_three_parts(small_data):
    found = load_mnist()
    assert found.train.x.shape == (DIGITS["train"] - 5000, 28, 28)
    assert found.valid.x.shape == (5000, 28, 28)
    assert found.test.x.shape == (DIGITS["t10k"], 28, 28)
    packed_labels = (small_data / "mnist" / "train-labels-idx1-ubyte.gz").read_bytes()
    labels = np.frombuffer(gzip.decompress(packed_labels)[8:], dtype=np.uint8)
    assert np.concatenate([found.train.y, found.valid.y]).tolist() == labels.tolist()
    assert found.held_for_tuning == 5000
    assert found.hashes == SETS["mnist"].hashes


def test_idx_sizes_are_big_endian_and_values_in_c_order(tmp_path):
    body = bytes(range(2 * 3 * 4))
    array = read_idx(packed(tmp_path / "a.gz", 2, 3, 4, body=body), dimensions=3)
    np.testing.assert_array_equal(array, np.arange(24).reshape(2, 3, 4))
    assert array.flags.writeable
    assert array.dtype == np.uint8


def test_an_empty_file_of_images_is_read(tmp_path):
    assert read_idx(packed(tmp_path / "a.gz", 0, 28, 28), dimensions=3).shape == (0, 28, 28)


@pytest.mark.parametrize(("change", "says"), [(-1, "unpacks to 39 bytes"), (1, "unpacks to 41 bytes")])
def test_missing_and_trailing_values_are_refused(tmp_path, change, says):
    path = packed(tmp_path / "a.gz", 2, 3, 4, body=bytes(24 + change))
    with pytest.raises(ValueError, match=rf"a\.gz {says}; its header, sizes \[2, 3, 4\], says 40"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize("magic", [0x00000801, 0x00000D03, 0x03080000, 0x01000803])
def test_another_magic_number_is_refused(tmp_path, magic):
    path = packed(tmp_path / "a.gz", 1, 1, 1, magic=magic)
    with pytest.raises(ValueError, match=rf"a\.gz begins with {magic:08x}, expected the idx magic number 00000803"):
        read_idx(path, dimensions=3)


def test_a_file_that_ends_inside_its_header_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes((0, 0, 8, 3, 0, 0))))
    with pytest.raises(ValueError, match=r"a\.gz ends inside its header: 6 of 16 bytes"):
        read_idx(tmp_path / "a.gz", dimensions=3)


def test_sizes_whose_product_overflows_are_refused(tmp_path):
    path = packed(tmp_path / "a.gz", 2**31, 2**31, 1, body=b"x")
    with pytest.raises(ValueError, match=r"a\.gz unpacks to 17 bytes; its header, .*, says 4611686018427387920"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize("harm", ["cut", "trailing", "flipped", "plain"])
def test_a_harmed_gzip_is_refused_by_name(tmp_path, harm):
    path = packed(tmp_path / "a.gz", 4, 28, 28, body=np.random.default_rng(0).bytes(4 * 28 * 28))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "trailing": data + b"garbage",
            "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
            "plain": gzip.decompress(data),
        }[harm]
    )
    with pytest.raises(ValueError, match=r"a\.gz is not a whole gzip file"):
        read_idx(path, dimensions=3)


def test_images_and_labels_must_belong_together(tmp_path):
    labels = packed(tmp_path / "y.gz", 2, body=bytes((3, 9)))
    with pytest.raises(ValueError, match=r"x\.gz holds images of 27 x 28 pixels, expected 28 x 28"):
        read_examples(packed(tmp_path / "x.gz", 2, 27, 28), labels)
    with pytest.raises(ValueError, match=r"y\.gz holds 2 labels for the 3 images of .*x\.gz"):
        read_examples(packed(tmp_path / "x.gz", 3, 28, 28), labels)
    images = packed(tmp_path / "x.gz", 2, 28, 28)
    assert read_examples(images, labels).y.tolist() == [3, 9]
    with pytest.raises(ValueError, match=r"y\.gz holds the label 10, expected 0 to 9"):
        read_examples(images, packed(tmp_path / "y.gz", 2, body=bytes((3, 10))))
