"""What the parser knows: numbered by hand, and from a treebank."""

from collections import Counter
from dataclasses import replace

import pytest

from normscope.tasks.parsing.features import NULL, ROOT, SYMBOLS, UNKNOWN, encode, vocabulary
from support.treebank import CAT, read_treebank


def test_vocabulary_holds_training_words_above_the_cut() -> None:
    sentence = replace(CAT, forms=("a", "b", "a", "b", "b", "c", "A", "."))
    known = vocabulary([sentence])
    assert known.words == {"b": SYMBOLS, "a": SYMBOLS + 1}
    assert known.sizes == (5, SYMBOLS + 7, 1 + 7)
    assert known.transitions.root_labels == ("root",)
    other = replace(CAT, forms=("b", "c", "d", "a", "b", "b", "b", "b"), xpos=("XX", *CAT.xpos[1:]))
    assert encode([other], known).words.tolist() == [[ROOT, 3, UNKNOWN, UNKNOWN, 4, 3, 3, 3, 3, NULL]]
    assert encode([other], known).tags[0, 1] == UNKNOWN
    assert vocabulary([CAT], column="upos").tags.keys() == set(CAT.upos)


@pytest.mark.usefixtures("small_data")
def test_vocabulary_of_a_treebank_is_counted_anew() -> None:
    sentences = read_treebank("dev")
    known = vocabulary(sentences)
    counts = Counter(form for each in sentences for form in each.forms)
    assert set(known.words) == {form for form, count in counts.items() if count > 1}
    by_number = sorted(known.words, key=lambda form: known.words[form])
    assert [counts[form] for form in by_number] == sorted((counts[form] for form in by_number), reverse=True)
    assert sorted(known.words.values()) == list(range(SYMBOLS, known.sizes[0]))
    assert known.transitions.root_labels == ("root",)
    assert "root" not in known.transitions.arc_labels


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="column must be one of xpos, upos, got 'forms'"):
        vocabulary([CAT], column="forms")
    with pytest.raises(ValueError, match="at least one sentence, got none"):
        vocabulary([])
