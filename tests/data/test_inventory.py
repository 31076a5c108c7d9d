import pytest

from normscope.data.files import DataDamaged, DataNotFound
from normscope.data.inventory import fetch, table, verify
from normscope.data.sets import SETS


@pytest.fixture
def own(tmp_path, cache, monkeypatch):
    (tmp_path / "own" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "own"))
    return tmp_path / "own" / "mnist"


def test_the_table_lists_every_set_with_its_terms(own, cache):
    digits, mnist = table()
    assert digits[0] == "digits"
    assert digits[1].startswith("present in ")
    assert digits[2:] == ("58 kB", SETS["digits"].licence, SETS["digits"].home)
    assert mnist == (
        "mnist",
        "not here (11.6 MB to fetch)",
        "11.6 MB",
        "none stated on the home page; often given as CC BY-SA 3.0; unclear",
        "http://yann.lecun.com/exdb/mnist/",
    )
    assert not cache.exists()


def test_fetching_what_is_there_gives_its_paths():
    assert fetch(["digits"])["digits"]["digits.csv.gz"].is_file()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no data set 'mnits'\. Did you mean 'mnist'\? There are: digits, mnist"):
        fetch(["digits", "mnits"])
    with pytest.raises(ValueError, match=r"no data set 'zzz'\. There are: digits, mnist"):
        verify(["zzz"])


def test_verify_minds_an_absent_set_only_where_it_is_named(own):
    verify()
    verify(["digits"])
    with pytest.raises(DataNotFound, match=r"data set 'mnist' is not here \(11\.6 MB to fetch\)"):
        verify(["mnist"])


def test_verify_names_every_damaged_file_and_leaves_it(own):
    for name in ("t10k-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (own / name).write_bytes(b"abc")
    with pytest.raises(DataDamaged, match="is not the mnist file of that name") as caught:
        verify()
    # Both expected hashes, and twice the sha256 of "abc" (FIPS 180-2, appendix B.1).
    for file in (SETS["mnist"].files[1], SETS["mnist"].files[3]):
        assert f"{own / file.name} is not" in str(caught.value)
        assert file.sha256 in str(caught.value)
    assert str(caught.value).count("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 2
    assert (own / "t10k-labels-idx1-ubyte.gz").read_bytes() == b"abc"
