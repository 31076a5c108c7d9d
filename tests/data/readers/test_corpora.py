import gzip

import pytest

from normscope.data.readers.parallel import PairCount, PairFiles
from normscope.data.readers.translation import load_parallel
from normscope.data.registry import PARALLEL_SETS, SETS
from normscope.data.store import DataUnverified, locate

COUNTS = {
    "iwslt14-de-en-sample": ("de", "en", 8_627, 7_283, 6_750),
    "iwslt15-en-vi-tests": ("en", "vi", None, 1_553, 1_268),
    "wmt-en-de-10k": ("en", "de", 10_000, 3_000, 2_737),
    "evbnews-en-vi": ("en", "vi", 43_286, 1_936, None),
    "multi30k": ("de", "en", 29_000, 1_014, 1_000),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_corpora_have_the_published_counts(ready, name):
    ready(name)
    splits = load_parallel(name)
    parts = [None if part is None else sum(1 for _ in part) for part in (splits.train, splits.valid, splits.test)]
    assert (splits.source, splits.target, *parts) == COUNTS[name]
    assert splits.hashes == SETS[name].hashes


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "evbnews-en-vi"])
def test_no_pair_of_the_real_corpora_has_an_empty_side(ready, name):
    ready(name)
    splits = load_parallel(name)
    for part in (splits.train, splits.valid, splits.test):
        if isinstance(part, PairFiles):
            count = PairCount()
            assert sum(1 for _ in part.read(count)) == count.read
            assert count.empty == 0


def test_source_comes_first(ready):
    ready("wmt-en-de-10k")
    wmt = load_parallel("wmt-en-de-10k")
    assert wmt.valid is not None
    assert next(iter(wmt.valid))[0] == "Parliament Does Not Support Amendment Freeing Tymoshenko"


def test_every_parallel_set_can_be_loaded_by_its_name(tmp_path, cache, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no parallel corpus 'europarl', expected one of evbnews-en-vi, .*, wmt14-en-de"
    ):
        load_parallel("europarl")
    for name in PARALLEL_SETS:
        monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "no such folder"))
        with pytest.raises(FileNotFoundError, match="which is not a folder"):
            load_parallel(name)


def test_the_users_own_training_side_is_read_and_recorded_as_unverified(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    (tmp_path / "wmt14-en-de").mkdir()
    for part in ("train", "newstest2013", "newstest2014"):
        for side in ("en", "de"):
            (tmp_path / "wmt14-en-de" / f"{part}.{side}").write_text(f"{part} {side}\n")
    with pytest.warns(DataUnverified) as told:
        splits = load_parallel("wmt14-en-de")
    assert len(told) == 6
    assert splits.train is not None
    assert splits.test is not None
    assert list(splits.train) == [("train en", "train de")]
    assert list(splits.test) == [("newstest2014 en", "newstest2014 de")]
    assert len(splits.hashes) == 6
    assert all(digest.startswith("unverified: ") for digest in splits.hashes.values())


def test_held_out_talks_of_the_sample_are_not_trained_on(ready):
    ready("iwslt14-de-en-sample")
    splits = load_parallel("iwslt14-de-en-sample")
    assert splits.train is not None
    assert splits.valid is not None
    assert splits.test is not None
    assert not set(splits.train) & (set(splits.valid) | set(splits.test))


def test_text_is_as_in_the_files(ready):
    dataset = ready("multi30k")
    splits = load_parallel("multi30k")
    assert splits.valid is not None
    lines = gzip.decompress(locate(dataset)["val.en.gz"].read_bytes()).decode().split("\n")
    assert [pair[1] for pair in splits.valid] == lines[:-1]
