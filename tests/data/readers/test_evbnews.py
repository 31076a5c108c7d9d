import gzip

import pytest

from normscope.data.readers.parallel import PairFiles
from normscope.data.readers.translation import DocumentPairs, is_held_out, read_documents
from normscope.data.registry import SETS
from normscope.data.store import locate


def written(folder, ids: str, source: str, target: str):
    for name, text in (("ids", ids), ("en", source), ("vi", target)):
        (folder / name).write_text(text)
    return PairFiles(source=folder / "en", target=folder / "vi"), folder / "ids"


def pairs_of(paths, part):
    files = PairFiles(source=paths["evbnews.en.gz"], target=paths["evbnews.vi.gz"])
    return DocumentPairs(files=files, ids=paths["evbnews.ids.gz"], part=part)


@pytest.mark.real_data("evbnews-en-vi")
def test_whole_documents_are_held_out_and_none_of_their_pairs_is_trained_on():
    paths = locate(SETS["evbnews-en-vi"])
    everything = list(pairs_of(paths, "all"))
    train, held = list(pairs_of(paths, "train")), list(pairs_of(paths, "held out"))
    ids = gzip.decompress(paths["evbnews.ids.gz"].read_bytes()).decode().split()
    assert len(everything) == len(ids) == 45_308
    assert len(set(everything)) == 43_693
    assert len({one.split(".")[0] for one in ids}) == 1_000
    assert len({one.split(".")[0] for one in ids if is_held_out(one.split(".")[0])}) == 50
    assert held == [pair for one, pair in zip(ids, everything, strict=True) if int(one[1:5]) % 20 == 0]
    assert not set(train) & set(held)
    # 86 pairs of other documents are also in a held-out one, word for word.
    assert (len(train), len(held)) == (43_286, 1_936)


def test_places_are_given_with_the_pairs(tmp_path):
    made = written(tmp_path, "N0001.1\nN0001.2\nN0020.1\n", "a\nb\nc\n", "1\n2\n3\n")
    assert list(read_documents(*made)) == [("N0001", 1, ("a", "1")), ("N0001", 2, ("b", "2")), ("N0020", 1, ("c", "3"))]


def test_a_trained_pair_that_is_held_out_elsewhere_is_left_out(tmp_path):
    files, ids = written(tmp_path, "N1.1\nN1.2\nN20.1\nN20.2\n", "a\nb\na\nb\n", "1\n2\n1\nx\n")
    parts = {part: list(DocumentPairs(files=files, ids=ids, part=part)) for part in ("train", "held out", "all")}
    assert parts["train"] == [("b", "2")]
    assert parts["held out"] == [("a", "1"), ("b", "x")]
    assert len(parts["all"]) == 4


@pytest.mark.parametrize(
    ("ids", "source", "target", "words"),
    [
        ("N1.1\n", "a\nb\n", "1\n2\n", r"ids ended after line 1: ids and pairs do not belong together"),
        ("N1.1\nN1.2\n", "a\n", "1\n", r"en ended after line 1: ids and pairs do not belong together"),
        ("N1.1\nN1.2\n", "a\n", "1\n2\n", r"en ended after line 1, and .*vi goes on"),
        ("N1.1\nN1.2\nN1.3\n", "a\n\nc\n", "1\n2\n3\n", r"en and .*vi have an empty side on line 2"),
        ("N1.1\nN1.2\n", "a\n\n", "1\n2\n", r"have an empty side on line 2"),
        ("N1.1\nN1\n", "a\nb\n", "1\n2\n", r"ids, line 2, is 'N1', expected an id such as N0001\.3"),
        ("N1.1\n1.2\n", "a\nb\n", "1\n2\n", r"ids, line 2, is '1\.2'"),
        ("N1.1\nNx.2\n", "a\nb\n", "1\n2\n", r"ids, line 2, is 'Nx\.2'"),
        ("N1.1\nN1.²\n", "a\nb\n", "1\n2\n", r"ids, line 2"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path, ids, source, target, words):
    with pytest.raises(ValueError, match=words):
        list(read_documents(*written(tmp_path, ids, source, target)))
