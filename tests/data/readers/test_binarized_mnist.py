"""Binarized MNIST, and MATLAB 5 files against SciPy."""

import random
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from normscope.data import BinaryImages, load_binarized_mnist, locate, matlab
from normscope.data.matlab import read_matlab_array
from normscope.data.readers.images import read_binary_images
from normscope.data.registry import SETS
from support.data_sets import BINARY_DIGITS


@pytest.fixture
def drawn() -> np.ndarray:
    return (np.random.default_rng(0).random((20, 784)) < 0.2).astype(np.uint8)


@pytest.mark.real_data("binarized-mnist")
def test_the_published_files() -> None:
    found = load_binarized_mnist()
    assert [len(part) for part in (found.train, found.valid, found.test)] == [50_000, 10_000, 10_000]
    # The gray levels of MNIST have this mean, 0.1307, and draws keep it.
    assert found.train.mean() == pytest.approx(0.1306, abs=5e-5)
    path = locate(SETS["binarized-mnist"])["binarized_mnist_test.mat"]
    assert np.array_equal(found.test, loadmat(path)["X"].reshape(-1, 28, 28))
    # Upright digits leave the first row blank, but for one pixel of all.
    assert found.train[:, 0].sum() == 1


def test_the_three_files_are_the_three_parts(small_data: Path) -> None:
    found = load_binarized_mnist()
    assert type(found) is BinaryImages
    for part, count in BINARY_DIGITS.items():
        path = small_data / "binarized-mnist" / f"binarized_mnist_{part}.mat"
        images = getattr(found, part)
        assert images.shape == (count, 28, 28)
        assert images.dtype == np.uint8
        assert np.array_equal(images, loadmat(path)["X"].reshape(-1, 28, 28))
    assert found.hashes == SETS["binarized-mnist"].hashes


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float64])
def test_arrays_are_read_as_scipy_writes_them(tmp_path: Path, kind: type, *, compressed: bool) -> None:
    wanted = np.arange(6).reshape(2, 3).astype(kind)
    savemat(tmp_path / "a.mat", {"other": "text", "y": np.ones((1, 1)), "X": wanted}, do_compression=compressed)
    assert np.array_equal(read_matlab_array(tmp_path / "a.mat", "X"), wanted)
    assert read_matlab_array(tmp_path / "a.mat", "y").tolist() == [[1]]
    with pytest.raises(ValueError, match=r"a\.mat has the variables \['other', 'y', 'X'\], expected 'Z'"):
        read_matlab_array(tmp_path / "a.mat", "Z")
    with pytest.raises(ValueError, match=r"a\.mat is damaged.*no dense array of real numbers"):
        read_matlab_array(tmp_path / "a.mat", "other")


def test_arrays_of_the_other_byte_order_and_complex_ones(tmp_path: Path) -> None:
    import struct

    parts = [(6, struct.pack(">II", 6, 0)), (5, struct.pack(">ii", 1, 2)), (1, b"X"), (4, struct.pack(">HH", 1, 300))]
    body = b"".join(
        struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in parts
    )  # fmt: skip
    content = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    (tmp_path / "big.mat").write_bytes(content)
    assert read_matlab_array(tmp_path / "big.mat", "X").tolist() == [[1, 300]]
    savemat(tmp_path / "complex.mat", {"X": np.ones((2, 2)) * 1j})
    with pytest.raises(ValueError, match="no dense array of real numbers"):
        read_matlab_array(tmp_path / "complex.mat", "X")


def test_other_contents_are_refused_with_their_place(
    tmp_path: Path, drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mat"

    def refused(content: dict, message: str) -> None:
        savemat(path, content)
        with pytest.raises(ValueError, match=message):
            read_binary_images(path)

    wrong = drawn.copy()
    wrong[3, 5] = 2
    refused({"X": wrong}, r"a\.mat, row 4: pixel 6 is 2, expected 0 or 1")
    refused({"X": drawn[:, 1:]}, r"a\.mat has X of shape \[20, 783\], expected \[images, 784\]")
    refused({"X": drawn[:0]}, r"a\.mat has no image")
    refused({"x": drawn}, r"a\.mat has the variables \['x'\], expected 'X'")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    with pytest.raises(ValueError, match=r"begins with b'\\x89HDF.*expected a MATLAB 5 file"):
        read_binary_images(path)
    monkeypatch.setattr(matlab, "LARGEST", 1000)
    savemat(path, {"X": drawn}, do_compression=True)
    with pytest.raises(ValueError, match=r"a\.mat is damaged.*has no end within 1,000 bytes"):
        read_binary_images(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_an_error_that_names_the_file(tmp_path: Path, drawn: np.ndarray, *, compressed: bool) -> None:
    """SciPy's reader kills the process on some of these files."""
    path, draw, refused = tmp_path / "a.mat", random.Random(1), 0
    savemat(path, {"X": drawn}, do_compression=compressed)
    whole = path.read_bytes()
    for number in range(150):
        content = bytearray(whole[: draw.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(3 * (number % 3)):
            content[draw.randrange(min(len(content), 400))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            read_binary_images(path)
        except ValueError as error:
            assert "a.mat" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 75
