import os
import re
from pathlib import Path, PurePosixPath

import pytest

from normscope.data.registry import SETS


@pytest.mark.parametrize("dataset", SETS.values(), ids=lambda dataset: dataset.name)
def test_every_set_is_described_whole(dataset):
    assert SETS[dataset.name] is dataset
    assert dataset.licence
    assert dataset.what
    assert dataset.home.startswith("http")
    place = PurePosixPath(dataset.place)
    assert not place.is_absolute()
    assert ".." not in place.parts
    for file in dataset.files:
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert (file.sha256 is None) == (file.bytes is None), "a file was seen, or it was not"
        assert bool(file.urls) + bool(dataset.package) + bool(dataset.bring) == 1, "fetched, shipped or brought"
        for url in file.urls:
            # The one address without TLS; its reader checks the md5 of what is inside.
            assert url.startswith("https://") or dataset.name == "enwik8"
            assert url.endswith(f"/{file.name}")


def test_sets_in_one_folder_mean_the_same_file_by_a_name():
    seen = {}
    for dataset in SETS.values():
        for file in dataset.files:
            assert seen.setdefault((dataset.place, file.name), file) == file


def test_hashes_are_by_file_name():
    assert list(SETS["mnist"].hashes) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]
    assert SETS["mnist"].hashes["t10k-labels-idx1-ubyte.gz"] == SETS["mnist"].files[3].sha256


@pytest.mark.real_data
def test_hashes_and_sizes_are_those_of_the_folder_that_the_sets_were_taken_from():
    root = Path(os.environ.get("NORMSCOPE_DATA", "absent"))
    if not (root / "SHA256SUMS").is_file():
        pytest.skip("NORMSCOPE_DATA has no SHA256SUMS")
    rows = (row.split(maxsplit=1) for row in (root / "SHA256SUMS").read_text().splitlines())
    listed = {name.removeprefix("./"): digest for digest, name in rows}
    checked = 0
    for dataset in SETS.values():
        for file in dataset.files:
            place = f"{dataset.place}/{file.name}"
            if place in listed:
                assert file.sha256 == listed[place]
                assert file.bytes == (root / place).stat().st_size
                checked += 1
    # mnist 4, rt 2, sst 3, enwiki 1, text 1, ewt 3, iwslt14 6, iwslt15 twice 2, wmt 6, evb 3, multi30k 6,
    # sentence-eval 11, ptb-wsj-sample 1, gutenberg-novels 11, strokes 2, binarized-mnist 3, cifar10-jpeg 1,
    # multi30k-task2 30.
    assert checked == 98
