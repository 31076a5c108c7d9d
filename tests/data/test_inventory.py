from hashlib import sha256

import pytest

from normscope.data.download import DataFile, DataSet
from normscope.data.registry import SETS
from normscope.data.store import DataDamaged, DataNotFound, DataUnverified, fetch, table, verify


@pytest.fixture
def own(tmp_path, cache, monkeypatch):
    (tmp_path / "own" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "own"))
    return tmp_path / "own" / "mnist"


def test_the_table_lists_every_set_with_its_terms(own, cache):
    digits, mnist, *others = table()
    assert [row[0] for row in (digits, mnist, *others)] == list(SETS)
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


def test_sets_to_be_brought_and_sizes_nobody_knows_are_said_so(own):
    rows = {row[0]: row for row in table()}
    assert rows["ptb"][1].startswith("not here (size unknown, bring your own: the trees are licensed (LDC99T42)")
    assert rows["ptb"][2] == "unknown"
    assert rows["enwik8"][1] == "not here (size unknown to fetch)"
    assert rows["iwslt15-en-vi"][2] == "206 kB and more"
    assert rows["rt-polarity"][1] == f"not here (486 kB, bring your own: {SETS['rt-polarity'].bring})"


def test_fetching_all_leaves_out_what_must_be_brought_or_cannot_be_verified(own, mirror, monkeypatch):
    body = b"one"
    digest = sha256(body).hexdigest()
    address = (f"{mirror.address}/one",)
    mirror.files["/one"] = body
    known, unseen = (
        DataFile(name="one", sha256=digest, bytes=3, urls=address),
        DataFile(name="one", sha256=None, urls=address),
    )
    brought, absent = DataFile(name="one", sha256=digest, bytes=3), DataFile(name="two", sha256=digest, bytes=3)
    for name in list(SETS):
        monkeypatch.delitem(SETS, name)
    for name, file in (("known", known), ("unseen", unseen), ("brought", brought), ("absent", absent)):
        one = DataSet(name=name, what="w", files=(file,), licence="l", home="h", bring="ask the publisher")
        monkeypatch.setitem(SETS, name, one)
    (own.parent / "brought").mkdir()
    (own.parent / "brought" / "one").write_bytes(body)
    assert list(fetch()) == ["known", "brought"]
    assert mirror.asked == ["/one"]
    with pytest.raises(DataNotFound, match=r"no download address\. Bring your own: ask the publisher; h"):
        fetch(["absent"])
    with pytest.warns(DataUnverified, match=digest):
        assert fetch(["unseen"])["unseen"]["one"].read_bytes() == body
    assert f"no published sha256, unverified: one {digest}" in {row[0]: row for row in table()}["unseen"][1]
    verify(["known", "brought", "unseen"])
    (own.parent / "unseen").mkdir()
    (own.parent / "unseen" / "one").write_bytes(b"another")
    verify(["unseen"])


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
        assert str(file.sha256) in str(caught.value)
    assert str(caught.value).count("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 2
    assert (own / "t10k-labels-idx1-ubyte.gz").read_bytes() == b"abc"
