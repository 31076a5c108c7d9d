import pytest

from normscope.data.inventory import fetch, table, verify
from normscope.data.sets import SETS


def test_the_table_lists_every_set_with_its_terms():
    rows = table()
    assert [row.name for row in rows] == list(SETS)
    assert rows[0].state.ready
    assert rows[1].bytes == 9912422 + 28881 + 1648877 + 4542
    assert all(row.licence and row.home and row.what for row in rows)


def test_fetching_what_is_there_gives_its_paths():
    paths = fetch(["digits"])
    assert paths["digits"]["digits.csv.gz"].is_file()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no data set 'mnits'\. Did you mean 'mnist'\? There are: digits, mnist"):
        fetch(["digits", "mnits"])
    with pytest.raises(ValueError, match=r"no data set 'zzz'\. There are: digits, mnist"):
        verify(["zzz"])


def test_verify_hashes_each_file_and_fetches_none(tmp_path, cache, monkeypatch):
    (tmp_path / "own" / "mnist").mkdir(parents=True)
    (tmp_path / "own" / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"abc")
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "own"))
    checked = {one.file: one for one in verify(["digits", "mnist"])}
    assert checked["digits.csv.gz"].whole
    damaged = checked["t10k-labels-idx1-ubyte.gz"]
    assert not damaged.whole
    assert damaged.found == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    absent = checked["train-images-idx3-ubyte.gz"]
    assert (absent.path, absent.found, absent.whole) == (None, None, False)
    assert not cache.exists()
