"""Tests of reading arrays: what numpy writes comes back, and every kind of damage is a ValueError."""

import io

import numpy as np
import pytest

from normscope.npy import check_array, read_npy


def content_of(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|u1", "<U3", "|b1"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_what_numpy_writes_comes_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    found = read_npy(content_of(array))
    assert found.dtype.str == dtype
    np.testing.assert_array_equal(found, array)


def test_every_shortened_file_is_refused() -> None:
    content = content_of(np.arange(6.0))
    for size in range(len(content)):
        with pytest.raises(ValueError, match=r"header|version|bytes"):
            read_npy(content[:size])
    with pytest.raises(ValueError, match=r"49 bytes, which do not fit float64 \[6\]"):
        read_npy(content + b"x")


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': ('six',), }",
        b"{'descr': '<f8', 'fortran_order': False",
        b"{'descr': 'nothing', 'fortran_order': False, 'shape': (6,), }",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (6,), 'more': 1, }",
        b"__import__('os').abort()",
        b"\x00\xff((((",
    ],
)
def test_headers_that_lie_are_refused(header: bytes) -> None:
    header = header.ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + np.arange(6.0).tobytes()
    with pytest.raises(ValueError, match=r"header|bytes"):
        read_npy(content)


def test_objects_and_fortran_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"object \[1\] in Fortran order or with objects"):
        read_npy(content_of(np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match="in Fortran order or with objects"):
        read_npy(content_of(np.asfortranarray(np.ones((2, 3)))))


def test_another_dtype_or_shape_is_named() -> None:
    check_array("points", np.zeros((5, 2), np.float32), "<f4", (None, 2))
    for array in (np.zeros((5, 2)), np.zeros((5, 3), np.float32), np.zeros(5, np.float32)):
        with pytest.raises(ValueError, match=r"points must be float32 \[any, 2\], got float"):
            check_array("points", array, "<f4", (None, 2))
