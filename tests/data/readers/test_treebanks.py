import hashlib
import zipfile
from collections import Counter
from dataclasses import replace

import pytest

from normscope.data.download import DataFile
from normscope.data.readers import treebanks
from normscope.data.readers.treebanks import load_ewt, load_ptb, load_ptb_sample
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


@pytest.mark.real_data("ptb-wsj-sample")
def test_the_sample_of_the_penn_treebank_has_nltks_counts():
    treebank = load_ptb_sample()
    parts = treebank.train, treebank.valid, treebank.test
    sentences = [sentence for part in parts for sentence in part]
    # NLTK's corpus reader counts the same.
    assert (len(sentences), sum(map(len, sentences))) == (3914, 94_084)
    assert all(sentence.heads.count(0) == 1 for sentence in sentences)
    first = treebank.train[0]
    assert " ".join(first.forms[:5]) == "Pierre Vinken , 61 years"
    assert (first.xpos[:3], first.heads[:3]) == (("NNP", "NNP", ","), (2, 8, 2))
    assert {(head == 0, relation) for head, relation in zip(first.heads, first.relations, strict=True)} == {
        (True, "root"),
        (False, "dep"),
    }


@pytest.mark.usefixtures("small_data")
def test_every_split_of_the_sample_has_each_article_once():
    whole = None
    for seed in (None, 0, 1):
        treebank = load_ptb_sample(seed=seed)
        parts = [Counter(part) for part in (treebank.train, treebank.valid, treebank.test)]
        together = sum(parts, Counter())
        whole = together if whole is None else whole
        assert together == whole
        sizes = [sum(part.values()) / sum(whole.values()) for part in parts]
        assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.1)
        assert min(sizes) > 0.05
    assert load_ptb_sample(seed=0).test == load_ptb_sample(seed=0).test != load_ptb_sample(seed=1).test


def sample(tmp_path, monkeypatch, *members: tuple[str, str | bytes]):
    path = tmp_path / "ptb-wsj-sample" / "dependency_treebank.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members:
            archive.writestr(name, text)
    dataset = SETS["ptb-wsj-sample"]
    known = DataFile(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(SETS, dataset.name, replace(dataset, files=(known,)))
    monkeypatch.setenv("NORMSCOPE_DATA", str(tmp_path))
    return path


ARTICLE = "dependency_treebank/wsj_0001.dp"
GOOD = "A\tDT\t2\nnote\tNN\t0\n#\t#\t2\n"


def test_the_fixed_split_is_by_the_numbers_of_the_articles(tmp_path, monkeypatch):
    names = {1: "train", 159: "train", 160: "valid", 179: "valid", 180: "test", 199: "test"}
    members = [(f"dependency_treebank/wsj_{n:04}.dp", f"w{n}\tNN\t0\n") for n in names]
    sample(tmp_path, monkeypatch, ("dependency_treebank/", ""), *members)
    treebank = load_ptb_sample()
    for part in ("train", "valid", "test"):
        want = [(f"w{n}",) for n, where in names.items() if where == part]
        assert [sentence.forms for sentence in getattr(treebank, part)] == want


def test_a_number_sign_is_a_word_of_the_journal(tmp_path, monkeypatch):
    sample(tmp_path, monkeypatch, (ARTICLE, "#\t#\t2\n" + GOOD.replace("2", "3").replace("0", "0")))
    (sentence,) = load_ptb_sample().train
    assert sentence.forms == ("#", "A", "note", "#")


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ((ARTICLE, GOOD + "one\tNN\n"), r"wsj_0001\.dp, line 4: 2 columns separated by tabs, expected 3: 'one\\tNN'"),
        ((ARTICLE, GOOD.replace("note\tNN\t0", "note\tNN\t9")), r"line 2: the head of word 2 is '9', expected 0 to 3"),
        ((ARTICLE, GOOD.replace("note\tNN\t0", "note\tNN\t1")), r"line 1: no word of the sentence is a root"),
        ((ARTICLE, GOOD.replace("#\t#\t2", "#\t#\t3")), r"line 3: word 3 is its own ancestor"),
        ((ARTICLE, b"\xff\tNN\t0\n"), r"wsj_0001\.dp, line 1, byte 1, is ff, which is not utf-8"),
        (("dependency_treebank/readme.txt", GOOD), r"has the member 'dependency_treebank/readme.txt', expected depend"),
        (("../wsj_0001.dp", GOOD), r"whose path leaves the archive's folder"),
    ],
)
def test_a_damaged_sample_is_refused_with_file_and_line(member, words, tmp_path, monkeypatch):
    sample(tmp_path, monkeypatch, member)
    with pytest.raises(ValueError, match=words):
        load_ptb_sample()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    sample(tmp_path, monkeypatch, (ARTICLE, GOOD))
    monkeypatch.setattr("normscope.data.readers.files.MOST_BYTES", 10)
    with pytest.raises(ValueError, match="unpacks to 23 bytes, more than 10"):
        load_ptb_sample()
    monkeypatch.setattr("normscope.data.readers.files.MOST_BYTES", 1000)
    monkeypatch.setattr("normscope.data.readers.files.MOST_MEMBERS", 0)
    with pytest.raises(ValueError, match="has more than 0 members"):
        load_ptb_sample()


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_occurs_twice_is_refused(tmp_path, monkeypatch):
    sample(tmp_path, monkeypatch, (ARTICLE, GOOD), (ARTICLE, GOOD))
    with pytest.raises(ValueError, match=r"has two members named 'dependency_treebank/wsj_0001\.dp'"):
        load_ptb_sample()


def test_a_damaged_or_encrypted_archive_is_refused(tmp_path, monkeypatch):
    path = sample(tmp_path, monkeypatch, (ARTICLE, GOOD))
    content = bytearray(path.read_bytes())
    for change, words in (
        (lambda one: one.replace(b"note", b"nope"), "not a whole zip"),
        (lambda one: one[:40], "zip"),
    ):
        path.write_bytes(change(content))
        with pytest.raises(ValueError, match=words):
            treebanks.read_zip(path)
    # The first flag bit of the local header and of the directory says that a member is encrypted.
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be unpacked: .*encrypted"):
        treebanks.read_zip(path)
