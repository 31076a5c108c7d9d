"""Attachment scores, counted by hand."""

from dataclasses import replace

import pytest

from normscope.tasks.parsing.features import encode_trees, vocabulary
from normscope.tasks.parsing.task import attachment, metric_name
from normscope.tasks.parsing.transitions import Trees
from support.treebank import CAT, CROSSED

KNOWN = vocabulary([CAT], least_count=1)


def test_gold_trees_score_all_and_a_wrong_one_by_hand() -> None:
    gold = encode_trees([CAT, CROSSED], vocabulary([CAT, CROSSED]))
    known = vocabulary([CAT, CROSSED])
    full = attachment([CAT, CROSSED], gold, known)
    assert full.unlabelled.tolist() == full.labelled.tolist() == [[8, 8], [4, 4]]

    heads, labels = gold.heads.copy(), gold.labels.copy()
    heads[0, 8] = 5  # the full stop, at the wrong word
    labels[0, 5] = labels[0, 2]  # dogs: the right head, the wrong name
    wrong = Trees(heads=heads, labels=labels, lengths=gold.lengths)
    scores = attachment([CAT, CROSSED], wrong, known)
    assert (scores.unlabelled.tolist(), scores.labelled.tolist()) == ([[7, 8], [4, 4]], [[6, 8], [4, 4]])
    scores = attachment([CAT, CROSSED], wrong, known, punctuation=False)
    assert (scores.unlabelled.tolist(), scores.labelled.tolist()) == ([[7, 7], [4, 4]], [[6, 7], [4, 4]])


def test_relations_that_training_has_not_are_never_right() -> None:
    strange = replace(CAT, relations=("csubj", *CAT.relations[1:]))
    trees = encode_trees([CAT], KNOWN)
    scores = attachment([strange], trees, KNOWN)
    assert (scores.unlabelled.tolist(), scores.labelled.tolist()) == ([[8, 8]], [[7, 8]])


def test_metric_is_named_by_what_counts() -> None:
    assert metric_name(labelled=False) == "UAS"
    assert metric_name(labelled=True, punctuation=False) == "LAS without punctuation"


def test_bad_arguments_are_refused() -> None:
    trees = encode_trees([CAT], KNOWN)
    with pytest.raises(ValueError, match="2 sentences need as many trees, got 1"):
        attachment([CAT, CAT], trees, KNOWN)
    with pytest.raises(ValueError, match="sentence 0 has 4 words, its tree 8"):
        attachment([CROSSED], trees, KNOWN)
    with pytest.raises(ValueError, match="the upos column must say PUNCT somewhere"):
        attachment([replace(CAT, upos=("X",) * 8)], trees, KNOWN, punctuation=False)
