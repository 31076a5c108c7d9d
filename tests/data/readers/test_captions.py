"""Captions with features of images: the files as they are, the vectors of texts by hand, and damaged files."""

import gzip
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from normscope.data import (
    CaptionedImages,
    CaptionSplits,
    DataUnverified,
    load_coco_captions,
    load_multi30k_captions,
    read_captions,
    read_features,
)
from normscope.data.readers import captions as reader
from normscope.data.readers.captions import german_vectors
from normscope.data.registry import SETS
from support.data_sets import CAPTIONED, FEATURES


def lines(folder: Path, part: str, number: int, side: str) -> list[str]:
    path = folder / "multi30k" / "task2" / f"{part}.{number}.{side}.gz"
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_multi30k_has_five_captions_of_each_image(small_data):
    splits = load_multi30k_captions()
    assert splits.hashes == SETS["multi30k-task2"].hashes
    assert len(splits.hashes) == 30
    assert isinstance(splits, CaptionSplits)
    assert isinstance(splits.train, CaptionedImages)
    for part, images in zip(CAPTIONED, (splits.train, splits.valid, splits.test), strict=True):
        assert len(images) == CAPTIONED[part] == len(images.captions) / 5
        assert images.features.shape == (len(images), 256)
        assert images.features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(images.features, axis=1), 1, rtol=1e-5)
        for number in range(5):
            raw = lines(small_data, part, number + 1, "en")
            assert raw[7].endswith(", ...!")
            assert images.captions[5 * 7 + number] == raw[7].removesuffix(", ...!").lower()
    again = load_multi30k_captions()
    assert np.array_equal(again.test.features, splits.test.features)


def test_vectors_are_fitted_on_the_training_side(small_data):
    texts = [[" ".join(lines(small_data, part, n, "de")[i].lower() for n in range(1, 6)) for i in range(count)]
             for part, count in CAPTIONED.items()]  # fmt: skip
    train, valid = ([text.replace(", ...!", "") for text in part] for part in texts[:2])
    whole, held = german_vectors(train, valid)
    (alone,) = german_vectors(train)
    assert np.array_equal(whole, alone)
    assert np.array_equal(german_vectors(train, valid[:3])[1], held[:3])


def test_vectors_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(12)]
    train = [" ".join(rng.choice(words, 9)) for _ in range(30)]
    train[3] += " once"
    other = ["w1 w1 w5 unseen", "unseen", "once"]
    counts = [Counter(text.split()) for text in train]
    known = [word for word in words if sum(word in each for each in counts) >= 2]
    assert len(known) == 12

    def row(text: str) -> np.ndarray:
        tf = Counter(text.split())
        idf = {word: 1 + math.log(31 / (1 + sum(word in each for each in counts))) for word in known}
        x = np.array([(1 + math.log(tf[word])) * idf[word] if tf[word] else 0.0 for word in known])
        return x / (np.linalg.norm(x) or 1)

    rows = [np.array([row(text) for text in part]) for part in (train, other)]
    basis = np.linalg.svd(rows[0], full_matrices=False)[2][:4].T
    for found, x in zip(german_vectors(train, other, components=4), rows, strict=True):
        wanted = x @ basis
        wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1e-12)
        # A singular vector has no sign of its own.
        np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)
        np.testing.assert_allclose(abs(found), abs(wanted), atol=1e-5)
    assert not found[1:].any()


def test_coco_is_read_as_the_public_code_reads_it(small_data):
    splits = load_coco_captions()
    for part, images in zip(FEATURES, (splits.train, splits.valid, splits.test), strict=True):
        used = min(1000, FEATURES[part]) if part == "val" else FEATURES[part]
        text = (small_data / "coco" / f"{part}.txt").read_text().split("\n")
        assert images.captions == tuple(text[: 5 * used])
        assert np.array_equal(images.features, np.load(small_data / "coco" / "images/10crop" / f"{part}.npy")[:used])
        assert len(images) == used
    # Nothing is read into memory before it is used.
    assert isinstance(splits.train.features, np.memmap)
    assert not splits.train.features.flags.writeable
    assert list(splits.hashes) == [f for p in ("train", "val", "test") for f in (f"{p}.txt", f"images/10crop/{p}.npy")]


def test_coco_without_published_hashes_is_used_with_a_warning(small_data, tmp_path, monkeypatch):
    shutil.copytree(small_data / "coco", tmp_path / "coco")
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    dataset = SETS["coco-captions"]
    monkeypatch.setitem(
        SETS, dataset.name, type(dataset)(**{**vars(dataset), "files": tuple(
            type(file)(name=file.name, sha256=None) for file in dataset.files
        )})
    )  # fmt: skip
    with pytest.warns(DataUnverified) as warned:
        splits = load_coco_captions()
    assert "train.npy has no published sha256" in str(warned[1].message)
    assert all(digest.startswith("unverified: ") for digest in splits.hashes.values())
    np.save(tmp_path / "coco/images/10crop/test.npy", np.ones((40, 11), np.float32))
    with pytest.warns(DataUnverified), pytest.raises(ValueError, match=r"must have one width, got \[12, 12, 11\]"):
        load_coco_captions()


def test_captions_have_five_lines_an_image(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("a  dog \r\n" + "b\n" * 4 + "c\td\n" * 5)
    assert read_captions(path, 2) == ("a dog", *"bbbb", *(["c d"] * 5))
    with pytest.raises(ValueError, match=rf"{path} ends after line 10, expected 15 lines, 5 for each of 3 images"):
        read_captions(path, 3)
    path.write_text("a\nb\n \nc\nd\n")
    with pytest.raises(ValueError, match=rf"{path}, line 3, has no word, expected a caption"):
        read_captions(path, 1)
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(ValueError, match=rf"{path}, line 2, byte 2, is ff, which is not utf-8"):
        read_captions(path, 1)


def headed(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


BROKEN = (
    "{1:\n",
    "[1 2]",
    "((((",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3)}}",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**9}, 3)}}",
    "{'descr': 'hello', 'fortran_order': False, 'shape': (1, 3)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': 'abc'}",
)
"""Headers of .npy files that are damaged or lie."""


def test_features_are_finite_float32_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_ROWS_AT_ONCE", 2)
    path = tmp_path / "train.npy"
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    for order in ("C", "F"):
        np.save(path, np.asarray(rows, order=order))
        assert np.array_equal(read_features(path), rows)
    whole = path.read_bytes()
    rows[3, 1] = np.nan
    np.save(path, rows)
    with pytest.raises(ValueError, match=rf"{path}, row 3 from 0, has a feature that is not finite"):
        read_features(path)
    for wrong in (rows.astype(np.float64), rows[0], rows[:0], rows.astype(">f4")):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=rf"{path} must have float32 \[images, features\], got \S+ \["):
            read_features(path)
    for damaged in (b"", whole[:-1], whole[:20], b"PK" + whole, *map(headed, BROKEN)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path} is not a whole \.npy file of numbers"):
            read_features(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=rf"{path} has 1 bytes behind its 5 rows"):
        read_features(path)


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "train.npy"
    np.save(path, np.array([[print, "hello"]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is not a whole \.npy file of numbers: .*Python objects"):
        read_features(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.index(b"\n", 200) + 1], r"val\.3\.de\.gz ends after line \d, before .*val\.1\.en"),
        (lambda text: text.replace(b"\n", b"\n?!\n", 1), r"val\.3\.de\.gz, line 2, has no word, expected a caption"),
        (lambda text: text + text, r"val\.1\.en\.gz ends after line 40, before .*val\.3\.de\.gz"),
    ],
)
def test_descriptions_that_do_not_belong_together_are_refused(small_data, tmp_path, monkeypatch, change, message):
    shutil.copytree(small_data / "multi30k", tmp_path / "multi30k")
    dataset = SETS["multi30k-task2"]
    loose = tuple(type(file)(name=file.name, sha256=None) for file in dataset.files)
    monkeypatch.setitem(SETS, dataset.name, type(dataset)(**{**vars(dataset), "files": loose}))
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    path = tmp_path / "multi30k/task2/val.3.de.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.warns(DataUnverified), pytest.raises(ValueError, match=message):
        load_multi30k_captions()


@pytest.mark.real_data("multi30k-task2")
def test_the_published_descriptions_have_the_stated_numbers():
    splits = load_multi30k_captions()
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [29_000, 1_014, 1_000]
    assert splits.test.captions[0] == "the man with pierced ears is wearing glasses and an orange hat"
    assert splits.test.captions[-1] == "a child playing in the ocean"
