"""The miniatures: whole, verified like the published sets, seen by children, and by nobody who did not ask."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from normscope.data.registry import SETS
from normscope.data.store import DataDamaged, locate, state
from support.data_sets import PUBLISHED, use, write_all

CHILD = "from normscope.data import SETS, state; print({name: state(one).kind for name, one in SETS.items()})"
WITHOUT = {"digits", "enwik8"}
"""One comes with scikit-learn; of the other the reader demands the published hundred million bytes."""


def test_every_set_has_a_miniature_of_each_file_with_its_own_hash(small_data: Path) -> None:
    for name in SETS.keys() - WITHOUT:
        assert state(SETS[name]).kind == "present"
        assert SETS[name].verified
        for file, path in locate(SETS[name]).items():
            assert path == small_data / SETS[name].place / file
            assert SETS[name].hashes[file] == hashlib.sha256(path.read_bytes()).hexdigest()
        names = [[file.name for file in dataset.files] for dataset in (SETS[name], PUBLISHED[name])]
        assert names[0] == names[1]
        assert not any(file.urls for file in SETS[name].files)


def test_a_child_process_sees_what_its_parent_sees(small_data: Path) -> None:
    told = subprocess.run([sys.executable, "-P", "-c", CHILD], capture_output=True, text=True, check=True)
    kinds = eval(told.stdout)
    assert {name: kinds[name] for name in SETS.keys() - WITHOUT} == dict.fromkeys(SETS.keys() - WITHOUT, "present")


def test_who_does_not_ask_has_the_published_sets_and_no_folder() -> None:
    assert SETS == PUBLISHED
    assert "NORMSCOPE_DATA" not in os.environ


def test_two_writings_are_equal_and_a_harmed_file_is_refused(
    small_data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path)
    for path in (path for path in small_data_folder.rglob("*") if path.is_file()):
        assert (tmp_path / path.relative_to(small_data_folder)).read_bytes() == path.read_bytes(), path
    use(tmp_path, monkeypatch)
    path = tmp_path / "rt-polarity" / "rt-polarity.pos.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataDamaged, match=r"rt-polarity\.pos\.gz is not the rt-polarity file of that name"):
        locate(SETS["rt-polarity"])
