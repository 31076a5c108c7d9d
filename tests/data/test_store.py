import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from normscope.data.download import DataFile, DataSet
from normscope.data.registry import SETS
from normscope.data.store import DataDamaged, DataNotFound, DataUnverified, folders, found_hashes, locate, state

ONE, TWO = b"one" * 1000, b"two" * 500


def pair(address: str) -> DataSet:
    files = tuple(
        DataFile(name=name, sha256=hashlib.sha256(body).hexdigest(), bytes=len(body), urls=(f"{address}/{name}",))
        for name, body in (("one.bin", ONE), ("two.bin", TWO))
    )
    return DataSet(name="pair", what="two files", files=files, licence="none", home="here")


def nowhere() -> DataSet:
    return pair("http://127.0.0.1:9")


@pytest.fixture
def own(tmp_path, cache, monkeypatch):
    (tmp_path / "own" / "pair").mkdir(parents=True)
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "own"))
    return tmp_path / "own" / "pair"


def test_the_users_folder_comes_first_and_nothing_is_asked_of_the_network(own, cache):
    (own / "one.bin").write_bytes(ONE)
    (own / "two.bin").write_bytes(TWO)
    assert locate(nowhere()) == {"one.bin": own / "one.bin", "two.bin": own / "two.bin"}
    assert state(nowhere()).kind == "present"
    assert str(own) in state(nowhere()).description
    assert not cache.exists()


def test_what_is_missing_is_fetched_once_and_kept(own, cache, mirror):
    mirror.files |= {"/one.bin": ONE, "/two.bin": TWO}
    (own / "one.bin").write_bytes(ONE)
    dataset = pair(mirror.address)
    assert state(dataset).description == "not here: 1 of 2 files missing (2 kB to fetch)"
    for _ in range(2):
        assert locate(dataset) == {"one.bin": own / "one.bin", "two.bin": cache / "pair" / "two.bin"}
    assert mirror.asked == ["/two.bin"]
    assert (cache / "pair" / "two.bin").read_bytes() == TWO
    assert state(dataset).kind == "cached"
    assert [path.name for path in own.iterdir()] == ["one.bin"]


def test_not_found_names_the_set_the_folders_the_addresses_and_the_hash(own, cache):
    with pytest.raises(DataNotFound, match=r"data set 'pair' is not here: no valid one\.bin") as caught:
        locate(nowhere())
    for words in (str(own), str(cache / "pair"), "http://127.0.0.1:9/one.bin", hashlib.sha256(ONE).hexdigest()):
        assert words in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert state(nowhere()).description == "not here (4 kB to fetch)"


@pytest.mark.parametrize("bad", [ONE[:-1], ONE[:-1] + b"x", b""])
def test_a_damaged_file_of_the_user_is_named_and_left_alone(own, cache, mirror, bad):
    mirror.files |= {"/one.bin": ONE, "/two.bin": TWO}
    (own / "one.bin").write_bytes(bad)
    with pytest.raises(DataDamaged, match=r"own/pair/one.bin is not the pair file") as caught:
        locate(pair(mirror.address))
    assert hashlib.sha256(ONE).hexdigest() in str(caught.value)
    assert hashlib.sha256(bad).hexdigest() in str(caught.value)
    assert (own / "one.bin").read_bytes() == bad
    assert state(nowhere()).kind == "damaged"
    assert str(own / "one.bin") in state(nowhere()).description


def test_a_damaged_file_in_the_cache_is_fetched_again(cache, mirror):
    mirror.files |= {"/one.bin": ONE, "/two.bin": TWO}
    dataset = pair(mirror.address)
    locate(dataset)
    (cache / "pair" / "one.bin").write_bytes(ONE[:5])
    assert state(dataset).kind == "damaged"
    assert locate(dataset)["one.bin"].read_bytes() == ONE
    assert mirror.asked == ["/one.bin", "/two.bin", "/one.bin"]


def test_a_damaged_cache_without_a_network_says_both(cache):
    (cache / "pair").mkdir(parents=True)
    (cache / "pair" / "one.bin").write_bytes(b"x")
    with pytest.raises(DataNotFound, match="could not be downloaded; the copy in the cache is damaged"):
        locate(nowhere())


def test_what_a_killed_download_left_is_swept_away(cache, mirror):
    mirror.files |= {"/one.bin": ONE, "/two.bin": TWO}
    (cache / "pair").mkdir(parents=True)
    for name, age in (("abc", 3700.0), ("of_another_machine", 60.0)):
        part = cache / "pair" / f".one.bin.{name}.part"
        part.write_bytes(ONE[:7])
        os.utime(part, (time.time(), time.time() - age))
    locate(pair(mirror.address))
    assert sorted(path.name for path in (cache / "pair").glob("*.bin")) == ["one.bin", "two.bin"]
    assert [path.name for path in (cache / "pair").glob(".*.part")] == [".one.bin.of_another_machine.part"]


def test_a_folder_variable_that_names_no_folder_is_an_error(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataNotFound, match=r"NORMSCOPE_DATA is '.*typo', which is not a folder"):
        locate(nowhere())


def test_a_set_inside_a_package_is_looked_for_there_only(own):
    import sklearn

    (folder,) = folders(SETS["digits"])
    assert str(folder).startswith(sklearn.__path__[0])
    assert locate(SETS["digits"])["digits.csv.gz"].is_file()


def test_a_package_that_is_absent_or_lacks_the_file_is_named():
    with pytest.raises(DataNotFound, match="the package is not installed"):
        locate(replace(SETS["digits"], package="no_such_package"))
    absent = state(replace(SETS["digits"], package="no_such_package"))
    assert absent.description == "not here (58 kB comes with the package no_such_package)"
    with pytest.raises(DataNotFound, match=r"digits\.csv\.gz is not in .*elsewhere"):
        locate(replace(SETS["digits"], folder_in_package="elsewhere"))


def test_a_set_may_lie_in_another_folder_here_and_in_the_cache(tmp_path, own, cache, mirror):
    mirror.files["/two.bin"] = TWO
    dataset = replace(pair(mirror.address), folder="other/raw")
    (tmp_path / "own" / "other" / "raw").mkdir(parents=True)
    (tmp_path / "own" / "other" / "raw" / "one.bin").write_bytes(ONE)
    assert locate(dataset) == {
        "one.bin": tmp_path / "own" / "other" / "raw" / "one.bin",
        "two.bin": cache / "other" / "raw" / "two.bin",
    }
    assert state(dataset).kind == "cached"


def test_a_file_without_a_published_hash_is_used_with_a_warning_that_names_its_own(own, cache, mirror):
    mirror.files["/two.bin"] = TWO
    (own / "one.bin").write_bytes(ONE)
    dataset = pair(mirror.address)
    dataset = replace(dataset, files=(dataset.files[0], replace(dataset.files[1], sha256=None, bytes=None)))
    assert state(dataset).description == "not here: 1 of 2 files missing (size unknown to fetch)"
    for _ in range(2):
        with pytest.warns(DataUnverified, match=r"two\.bin has no published sha256") as told:
            paths = locate(dataset)
        assert [str(warning.message).count(hashlib.sha256(TWO).hexdigest()) for warning in told] == [1]
    assert mirror.asked == ["/two.bin"]
    assert found_hashes(dataset, paths) == {
        "one.bin": hashlib.sha256(ONE).hexdigest(),
        "two.bin": f"unverified: {hashlib.sha256(TWO).hexdigest()}",
    }
    there = state(dataset)
    assert (there.kind, there.unverified) == ("cached", ("two.bin",))
    assert f"no published sha256, unverified: two.bin {hashlib.sha256(TWO).hexdigest()}" in there.description


def test_a_file_without_an_address_says_how_to_come_by_it(own, cache):
    dataset = pair("")
    dataset = replace(dataset, files=(replace(dataset.files[0], urls=()),), bring="ask the publisher")
    with pytest.raises(DataNotFound, match=r"Bring your own: ask the publisher; here") as caught:
        locate(dataset)
    for words in ("one.bin", str(own), hashlib.sha256(ONE).hexdigest()):
        assert words in str(caught.value)
    assert state(dataset).description == "not here (3 kB, bring your own: ask the publisher)"


def test_a_file_may_have_another_name(own, cache):
    dataset = pair("")
    file = replace(dataset.files[0], urls=(), other_names=("uno.bin", "eins.bin"))
    dataset = replace(dataset, files=(file,))
    (own / "eins.bin").write_bytes(ONE)
    assert locate(dataset) == {"one.bin": own / "eins.bin"}
    (own / "one.bin").write_bytes(ONE)
    assert locate(dataset) == {"one.bin": own / "one.bin"}


def test_reading_data_imports_neither_torch_nor_scikit_learn():
    program = (
        "import sys; from normscope import data; data.load_digits();"
        "print(sorted({'torch', 'sklearn', 'pooch', 'normscope.norms'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
