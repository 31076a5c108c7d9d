import hashlib

import pytest

from normscope.data.readers.treebanks import load_ewt, load_ptb
from normscope.data.registry import SETS
from normscope.data.store import DataNotFound, DataUnverified
from support.data_sets import TREES

ROW = "1\tNo\tno\tUH\tUH\t_\t0\troot\t_\t_\n"


@pytest.mark.real_data("ud-english-ewt")
def test_the_english_web_treebank_has_the_published_counts():
    treebank = load_ewt()
    assert [len(part) for part in (treebank.train, treebank.valid, treebank.test)] == [12_544, 2_001, 2_077]
    relations = {relation for sentence in treebank.train for relation in sentence.relations}
    assert len(relations) == 51
    assert all(sentence.heads.count(0) == 1 for sentence in treebank.train)
    assert treebank.hashes == SETS["ud-english-ewt"].hashes


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("load", [load_ewt, load_ptb])
def test_equal_words_are_one_string(load):
    treebank = load()
    assert len(treebank.valid) in {TREES["dev"], TREES["dev"] // 5}
    forms = [form for sentence in treebank.valid for form in sentence.forms]
    assert len(set(map(id, forms))) == len(set(forms)) < len(forms)


def test_the_users_own_penn_treebank_is_read_and_recorded_as_unverified(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    (tmp_path / "ptb").mkdir()
    with pytest.raises(DataNotFound, match=r"(?s)no valid train\.conllx \(or train\.conllu.*Bring your own.*LDC99T42"):
        load_ptb()
    for name, body in (("train.conllx", ROW * 1), ("dev.conllu", ROW + "\n" + ROW), ("test.conllu", ROW)):
        (tmp_path / "ptb" / name).write_text(body)
    with pytest.warns(DataUnverified, match="no published sha256") as told:
        treebank = load_ptb()
    digest = hashlib.sha256(ROW.encode()).hexdigest()
    assert [len(part) for part in (treebank.train, treebank.valid, treebank.test)] == [1, 2, 1]
    assert list(treebank.hashes) == ["train.conllx", "dev.conllx", "test.conllx"]
    assert treebank.hashes["train.conllx"] == f"unverified: {digest}"
    assert len(told) == 3
    assert digest in str(told[0].message)
