"""Pictures of a run and their file: written, read again, damaged, and larger than they may be."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from normscope.results import pictures
from normscope.results.pictures import Picture, pack, read_pictures

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
BOXES = np.full((2, 3, 1, 4), np.nan, np.float32)
STROKES = np.array([[[1, 2, 0], [3, -4, 1]], [[0.5, 0, 1], [np.nan] * 3]], np.float32)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    BOXES[0, 0, 0] = 1, 2, 3, 4
    made = [Picture("one, ä <b>", "images", IMAGES, BOXES), Picture("", "strokes", STROKES)]
    (tmp_path / "pictures.npz").write_bytes(pack(made))
    found = read_pictures(tmp_path / "pictures.npz")
    assert [(one.caption, one.kind) for one in found] == [("one, ä <b>", "images"), ("", "strokes")]
    np.testing.assert_array_equal(found[0].array, IMAGES)
    np.testing.assert_array_equal(found[0].boxes, BOXES)
    np.testing.assert_array_equal(found[1].array, STROKES)
    assert found[1].boxes is None
    assert pack(made) == pack(found)
    assert read_pictures_of(tmp_path, pack([])) == []


def read_pictures_of(folder: Path, content: bytes) -> list[Picture]:
    (folder / "p.npz").write_bytes(content)
    return read_pictures(folder / "p.npz")


@pytest.mark.parametrize(
    ("kind", "array", "boxes", "message"),
    [
        ("images", IMAGES.astype(np.int64), None, r"images must be uint8 \[any, any, any, any\], got int64"),
        ("images", IMAGES[0], None, r"got uint8 \[3, 4, 5\]"),
        ("images", IMAGES[:0], None, r"got uint8 \[0, 3, 4, 5\]"),
        ("images", IMAGES, BOXES[:1], r"boxes must be float32 \[2, 3, any, 4\], got float32 \[1, 3, 1, 4\]"),
        ("images", IMAGES, np.full_like(BOXES, np.inf), "boxes must be finite or NaN"),
        ("strokes", STROKES[..., :2], None, r"strokes must be float32 \[any, any, 3\], got float32 \[2, 2, 2\]"),
        ("strokes", STROKES, BOXES, "boxes are those of images"),
        ("sound", STROKES, None, "kind must be 'images' or 'strokes', got 'sound'"),
    ],
)
def test_other_arrays_are_refused(kind: str, array: np.ndarray, boxes: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Picture("c", kind, array, boxes)  # pyright: ignore[reportArgumentType]


def test_more_than_a_run_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pack([Picture("c", "images", np.zeros((1, 1, 300, 300), np.uint8))])
    monkeypatch.setattr(pictures, "LARGEST", 10_000)
    with pytest.raises(ValueError, match="may hold 10,000 bytes, got 90,004: show fewer"):
        pack([Picture("c", "images", np.zeros((1, 1, 300, 300), np.uint8))])
    with pytest.raises(ValueError, match=r"p\.npz does not hold the pictures of a run: 90,\d+ bytes unpacked"):
        read_pictures_of(tmp_path, content)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    def zipped(**arrays: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
        return buffer.getvalue()

    caption = {"0.caption": np.array("c")}
    for content, message in (
        (zipped(**caption), r"picture 0 must have images or strokes, got \[\]"),
        (zipped(**caption, **{"0.images": IMAGES, "0.strokes": STROKES}), "got .'images', 'strokes'"),
        (zipped(**caption, **{"0.images": IMAGES, "weights": STROKES}), "unexpected arrays 'weights'"),
        (zipped(**{"0.caption": np.array(1), "0.images": IMAGES}), "caption 0 must be a text"),
        (zipped(**caption, **{"0.images": np.array([[[[object()]]]])}), "in Fortran order or with objects"),
        (zipped(**caption, **{"0.images": np.asfortranarray(IMAGES)}), "in Fortran order or with objects"),
        (b"PK", "not a zip file"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)p\.npz does not hold the pictures of a run: .*{message}"):
            read_pictures_of(tmp_path, content)


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole, draw = pack([Picture("c", "images", IMAGES, BOXES), Picture("d", "strokes", STROKES)]), random.Random(0)
    assert {entry.compress_type for entry in zipfile.ZipFile(io.BytesIO(whole)).infolist()} == {zipfile.ZIP_DEFLATED}
    refused = 0
    for number in range(300):
        content = bytearray(whole[: draw.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(2 * (number % 3)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            read_pictures_of(tmp_path, bytes(content))
        except ValueError as error:
            assert "p.npz" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 200
