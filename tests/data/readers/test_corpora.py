import gzip

import pytest

from normscope.data.readers.parallel import PairCount, PairFiles
from normscope.data.readers.translation import load_parallel
from normscope.data.registry import SETS
from normscope.data.sets.parallel import PARALLEL_SETS
from normscope.data.store import DataUnverified, locate
from support.data_sets import PAIRS

COUNTS = {
    "iwslt14-de-en-sample": ("de", "en", 8_627, 7_283, 6_750),
    "iwslt15-en-vi-tests": ("en", "vi", None, 1_553, 1_268),
    "wmt-en-de-10k": ("en", "de", 10_000, 3_000, 2_737),
    "evbnews-en-vi": ("en", "vi", 43_286, 1_936, None),
    "multi30k": ("de", "en", 29_000, 1_014, 1_000),
}


def real(names):
    return [pytest.param(name, marks=pytest.mark.real_data(name)) for name in names]


@pytest.mark.parametrize("name", real(COUNTS))
def test_the_published_corpora_have_the_published_counts(name):
    splits = load_parallel(name)
    parts = [None if part is None else sum(1 for _ in part) for part in (splits.train, splits.valid, splits.test)]
    assert (splits.source, splits.target, *parts) == COUNTS[name]
    assert splits.hashes == SETS[name].hashes


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("name", PARALLEL_SETS)
def test_every_corpus_is_read_from_its_files_whole(name):
    splits = load_parallel(name)
    parts = {part: list(pairs) for part in PAIRS if (pairs := getattr(splits, part)) is not None}
    sizes = {part: len(pairs) for part, pairs in parts.items()}
    if name == "iwslt15-en-vi-tests":
        assert sizes == {"valid": PAIRS["valid"], "test": PAIRS["test"]}
    elif name == "evbnews-en-vi":
        # Of forty documents two are held out, and one pair of another document is also in one of them.
        assert sizes == {"train": PAIRS["train"] * 38 // 40 - 1, "valid": PAIRS["train"] * 2 // 40}
    elif name == "iwslt14-de-en":
        # Titles and descriptions of the talks are pairs, too.
        assert sizes["train"] + sizes["valid"] == (PAIRS["train"] + PAIRS["valid"]) * 102 // 100
        assert sizes["test"] == PAIRS["test"]
    else:
        assert sizes == PAIRS
    assert all(source.strip() and target.strip() for pairs in parts.values() for source, target in pairs)
    assert splits.hashes == SETS[name].hashes


@pytest.mark.parametrize("name", real(name for name in COUNTS if name != "evbnews-en-vi"))
def test_no_pair_of_the_published_corpora_has_an_empty_side(name):
    splits = load_parallel(name)
    for part in (splits.train, splits.valid, splits.test):
        if isinstance(part, PairFiles):
            count = PairCount()
            assert sum(1 for _ in part.read(count)) == count.read
            assert count.empty == 0


def test_source_comes_first(small_data):
    wmt = load_parallel("wmt-en-de-10k")
    assert wmt.valid is not None
    folder = small_data / "wmt-en-de-10k"
    lines = [gzip.decompress((folder / f"{side}-val.txt.gz").read_bytes()).decode() for side in ("src", "tgt")]
    assert list(wmt.valid) == list(zip(*(text.splitlines() for text in lines), strict=True))


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


@pytest.mark.real_data("iwslt14-de-en-sample")
def test_held_out_talks_of_the_sample_are_not_trained_on():
    splits = load_parallel("iwslt14-de-en-sample")
    assert splits.train is not None
    assert splits.valid is not None
    assert splits.test is not None
    assert not set(splits.train) & (set(splits.valid) | set(splits.test))


def test_text_is_as_in_the_files(small_data):
    dataset = SETS["multi30k"]
    splits = load_parallel("multi30k")
    assert splits.valid is not None
    lines = gzip.decompress(locate(dataset)["val.en.gz"].read_bytes()).decode().split("\n")
    assert [pair[1] for pair in splits.valid] == lines[:-1]
