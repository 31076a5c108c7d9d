"""TREC and SICK: what is read, and what is said of a line of another form."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from normscope.data import RelatedPairs, RelatedPairSplits, load_sick, load_trec
from normscope.data.readers.skip_thoughts.evaluation import KINDS, read_questions, read_sick

HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"


def write(folder: Path, text: bytes) -> Path:
    path = folder / "lines.txt.gz"
    path.write_bytes(gzip.compress(text))
    return path


def test_questions_and_their_kinds(tmp_path: Path) -> None:
    text = read_questions(write(tmp_path, b"NUM:dist How far is it ?\nLOC:city Where  is Br\xe9a ?\r\n"))
    assert text.sentences == ("How far is it ?", "Where is Br\u00e9a ?")
    assert [KINDS[label] for label in text.labels] == ["NUM", "LOC"]


@pytest.mark.parametrize("line", ["", "NUM How far ?", "num:dist How far ?", "NUM: How far ?", "NUM:dist "])
def test_a_question_of_another_form_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lines\.txt\.gz, line 2: .*expected one of ABBR, DESC"):
        read_questions(write(tmp_path, f"NUM:dist How far is it ?\n{line}\n".encode()))
    with pytest.raises(ValueError, match=r"lines\.txt\.gz has no question"):
        read_questions(write(tmp_path, b""))


def test_pairs_and_their_relatedness(tmp_path: Path) -> None:
    lines = f"{HEADER}\r\n7\tA dog runs\tA dog walks\t3.5\tNEUTRAL\r\n9\tA\tB\t5\tENTAILMENT\r\n"
    pairs: RelatedPairs = read_sick(write(tmp_path, lines.encode()))
    assert (pairs.first, pairs.second) == (("A dog runs", "A"), ("A dog walks", "B"))
    assert pairs.scores.tolist() == [3.5, 5.0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\tb\n", "line 1: the columns"),
        ("", "line 1: the columns"),
        (f"{HEADER}\n", "has no pair"),
        (f"{HEADER}\n1\tA\tB\t3\n", "line 2: .*expected 5 columns with two sentences"),
        (f"{HEADER}\n1\tA\tB\t3\tX\n1\tA\t \t3\tX\n", "line 3: .*expected 5 columns with two sentences"),
        (f"{HEADER}\n1\tA\tB\t5.1\tX\n", "line 2: the relatedness '5.1', expected a number from 1 to 5"),
        (f"{HEADER}\n1\tA\tB\tnan\tX\n", "line 2: the relatedness 'nan'"),
        (f"{HEADER}\n1\tA\tB\thigh\tX\n", "line 2: the relatedness 'high'"),
    ],
)
def test_a_pair_of_another_form_is_named_with_its_line(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_sick(write(tmp_path, lines.encode()))


@pytest.mark.usefixtures("small_data")
def test_a_tenth_of_the_questions_is_held_out_and_equal_ones_together() -> None:
    fixed, drawn = load_trec(), load_trec(seed=4)
    for splits in (fixed, drawn):
        assert not set(splits.train.sentences) & set(splits.valid.sentences)
        assert len(splits.valid) == pytest.approx(0.1 * (len(splits.train) + len(splits.valid)), rel=0.1)
        assert splits.test.sentences == fixed.test.sentences
    whole = [sorted((*splits.train.sentences, *splits.valid.sentences)) for splits in (fixed, drawn)]
    assert whole[0] == whole[1]
    assert fixed.valid.sentences != drawn.valid.sentences
    assert set(fixed.train.labels) == set(range(6))


@pytest.mark.usefixtures("small_data")
def test_the_parts_of_sick_are_the_published_files() -> None:
    sick: RelatedPairSplits = load_sick()
    assert [len(part.scores) for part in (sick.train, sick.valid, sick.test)] == [120, 40, 60]
    assert len(sick.hashes) == 3


@pytest.mark.real_data("trec", "sick2014")
def test_published_sizes() -> None:
    trec, sick = load_trec(), load_sick()
    assert (len(trec.train) + len(trec.valid), len(trec.test)) == (5452, 500)
    assert np.bincount(trec.test.labels).tolist() == [9, 138, 94, 65, 81, 113]
    assert [len(part.scores) for part in (sick.train, sick.valid, sick.test)] == [4500, 500, 4927]
