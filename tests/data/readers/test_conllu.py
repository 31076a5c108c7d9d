import gzip
import itertools

import pytest

from normscope.data.readers.treebanks import ParsedSentence, TreeCount, read_conllu
from normscope.data.registry import SETS
from normscope.data.store import locate
from support.data_sets import TREES

WORDS = """# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\tV\tA=b\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tgone\tgo\tVERB\tV\t_\t_\t_\t1:x\t_
3\tal mar\tmar\tNOUN\tN\t_\t1\tobl\t_\t_
"""


def written(tmp_path, text, name="t.conllu"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def rows(*heads, first=1):
    return "".join(f"{n}\tw{n}\tl\tU\tX\t_\t{head}\tr\t_\t_\n" for n, head in enumerate(heads, start=first))


def test_words_are_read_and_ranges_and_empty_nodes_counted(tmp_path):
    count = TreeCount()
    (sentence,) = read_conllu(written(tmp_path, WORDS), count=count)
    assert sentence == ParsedSentence(
        forms=("vamos", "nos", "al mar"),
        lemmas=("ir", "nosotros", "mar"),
        upos=("VERB", "PRON", "NOUN"),
        xpos=("V", "P", "N"),
        heads=(0, 1, 1),
        relations=("root", "obj", "obl"),
    )
    assert len(sentence) == 3
    assert count == TreeCount(sentences=1, words=3, ranges=1, empty_nodes=1)


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_blank_lines_divide_sentences_and_the_last_may_be_missing(tmp_path, end):
    path = written(tmp_path, "\n" + rows(0) + "\n\n" + rows(2, 0) + end)
    assert [sentence.heads for sentence in read_conllu(path)] == [(0,), (2, 0)]
    crlf = tmp_path / "crlf.conllu"
    crlf.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_conllu(crlf)) == list(read_conllu(path))


def test_a_file_without_sentences_has_none(tmp_path):
    assert list(read_conllu(written(tmp_path, ""))) == []


def test_conll_x_has_its_columns_at_the_same_places(tmp_path):
    # The example of the CoNLL-X shared task page, its first three words.
    text = (
        "1\tCathy\tCathy\tN\tN\teigen|ev|neut\t2\tsu\t_\t_\n"
        "2\tzag\tzie\tV\tV\ttrans|ovt|1of2of3|ev\t0\tROOT\t_\t_\n"
        "3\then\then\tPron\tPron\tper|3|mv|datofacc\t2\tobj1\t_\t_\n"
    )
    (sentence,) = read_conllu(written(tmp_path, text, "t.conllx"))
    assert sentence.heads == (2, 0, 2)
    assert sentence.relations == ("su", "ROOT", "obj1")
    assert sentence.xpos == ("N", "V", "Pron")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1\tw\tl\tU\tX\t_\t0\tr\t_\n", "line 4: 9 columns separated by tabs, expected 10"),
        ("1\tw\tl\tU\tX\t_\t0\tr\t_\t_\t_\n", "line 4: 11 columns separated by tabs, expected 10"),
        ("1 w l U X _ 0 r _ _\n", "line 4: 1 columns separated by tabs, expected 10"),
        (rows(0) + "# late\n", "line 5: 1 columns"),
        (rows(0) + " \n", "line 5: 1 columns"),
        (rows(0) + rows(3, first=2), "line 5: the head of word 2 is '3', expected 0 to 2"),
        (rows(-1), "line 4: the head of word 1 is '-1', expected 0 to 1"),
        (rows("_"), "line 4: the head of word 1 is '_', expected 0 to 1"),
        (rows("1.0"), "line 4: the head of word 1 is '1.0'"),
        (rows("٠"), "line 4: the head of word 1 is '٠'"),
        ("x\tw\tl\tU\tX\t_\t0\tr\t_\t_\n", "line 4: 'x' is not a word's number"),
        ("01\tw\tl\tU\tX\t_\t0\tr\t_\t_\n", "line 4: '01' is not a word's number"),
        ("\tw\tl\tU\tX\t_\t0\tr\t_\t_\n", "line 4: '' is not a word's number"),
        (rows(0, first=2), "line 4: word 2, expected word 1"),
        (rows(0, first=0), "line 4: word 0, expected word 1"),
        (rows(0) + rows(1, first=3), "line 5: word 3, expected word 2"),
        (rows(0) + rows(1, first=1), "line 5: word 1, expected word 2"),
        ("1\t\tl\tU\tX\t_\t0\tr\t_\t_\n", "line 4: word 1 has no form"),
        ("1-2\tw\t_\t_\t_\t_\t_\t_\t_\t_\n", "line 4: the sentence has no word"),
        ("# only this\n\n", "line 5: the sentence that ends here has no word"),
        ("# only this\n", "line 4: the file ends after a comment, before its sentence"),
        (rows(2, 1), r"line 4: no word of the sentence is a root \(head 0\)"),
        (rows(1), "line 4: no word of the sentence is a root"),
        (rows(0, 3, 2), "line 5: word 2 is its own ancestor: the heads form a cycle"),
        (rows(0, 2), "line 5: word 2 is its own ancestor"),
        (rows(2, 3, 4, 2, 0), "line 5: word 2 is its own ancestor"),
    ],
)
def test_a_broken_sentence_is_refused_with_file_and_line(tmp_path, body, words):
    reader = read_conllu(written(tmp_path, "# good\n" + rows(0) + "\n" + body))
    assert len(next(reader)) == 1
    with pytest.raises(ValueError, match=rf"t\.conllu, {words}"):
        next(reader)


def test_trees_and_nothing_else_are_taken_of_all_heads_of_three_words(tmp_path):
    taken = 0
    for heads in itertools.product(range(4), repeat=3):
        path = written(tmp_path, rows(*heads))
        try:
            list(read_conllu(path))
        except ValueError:
            continue
        taken += 1
    # Cayley: (n + 1)^(n - 1) labelled trees on n + 1 nodes, here rooted at 0.
    assert taken == 4**2


@pytest.mark.real_data("ud-english-ewt")
@pytest.mark.parametrize(
    ("part", "sentences", "words"), [("train", 12_544, 204_577), ("dev", 2_001, 25_147), ("test", 2_077, 25_094)]
)
def test_the_english_web_treebank_is_read_as_by_its_own_package(part, sentences, words):
    peer = pytest.importorskip("conllu")
    path = locate(SETS["ud-english-ewt"])[f"en_ewt-ud-{part}.conllu.gz"]
    count = TreeCount()
    text = gzip.decompress(path.read_bytes()).decode()
    mine = read_conllu(path, count=count)
    if part == "train":
        # The peer needs half a minute for all of it; every eighth sentence, from the same text.
        blocks = text.rstrip("\n").split("\n\n")
        assert len(blocks) == sentences
        text = "\n\n".join(blocks[::8])
        kept = [sentence for number, sentence in enumerate(mine) if number % 8 == 0]
    else:
        kept = list(mine)
    check_sentences(kept, peer.parse(text))
    assert (count.sentences, count.words) == (sentences, words)
    # Counted with grep in the unpacked train file.
    if part == "train":
        assert (count.ranges, count.empty_nodes) == (2_614, 37)


def check_sentences(kept, theirs):
    for sentence, other in zip(kept, theirs, strict=True):
        tokens = [token for token in other if isinstance(token["id"], int)]
        assert sentence.forms == tuple(token["form"] for token in tokens)
        assert sentence.lemmas == tuple(token["lemma"] for token in tokens)
        assert sentence.upos == tuple(token["upos"] for token in tokens)
        assert sentence.xpos == tuple(token["xpos"] or "_" for token in tokens)
        assert sentence.heads == tuple(token["head"] for token in tokens)
        assert sentence.relations == tuple(token["deprel"] for token in tokens)


def test_a_packed_treebank_is_read_as_by_another_package(small_data):
    peer = pytest.importorskip("conllu")
    path = locate(SETS["ud-english-ewt"])["en_ewt-ud-test.conllu.gz"]
    count = TreeCount()
    check_sentences(list(read_conllu(path, count=count)), peer.parse(gzip.decompress(path.read_bytes()).decode()))
    assert count.sentences == TREES["test"]
    assert count.ranges > 0
    assert count.empty_nodes > 0


def test_memory_does_not_grow_with_the_file(tmp_path, peak):
    path = written(tmp_path, (rows(0, 1, 2) + "\n") * 8_000)

    def count():
        assert sum(1 for _ in read_conllu(path)) == 8_000

    # One sentence and the stream's buffers; the text alone would be as large as the file, the sentences larger.
    assert peak(count) < path.stat().st_size
