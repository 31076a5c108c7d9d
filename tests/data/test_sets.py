import re

from normscope.data.sets import SETS


def test_every_set_is_described_whole():
    for name, dataset in SETS.items():
        assert dataset.name == name
        assert dataset.licence
        assert dataset.what
        assert dataset.home.startswith("http")
        assert dataset.bytes == sum(file.bytes for file in dataset.files) > 0
        for file in dataset.files:
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert bool(file.urls) != bool(dataset.package), "fetched, or shipped by a package: one of the two"
            assert all(url.startswith("https://") and url.endswith(f"/{file.name}") for url in file.urls)


def test_hashes_are_by_file_name():
    assert list(SETS["mnist"].hashes) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]
    assert SETS["mnist"].hashes["t10k-labels-idx1-ubyte.gz"] == SETS["mnist"].files[3].sha256
