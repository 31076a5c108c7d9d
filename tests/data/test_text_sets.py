import re

from normscope.data.sets.texts import TEXT_SETS


def test_sets_whose_terms_keep_them_from_being_fetched_have_no_address():
    assert not any(file.urls for file in TEXT_SETS["ptb"].files)
    assert "licensed" in TEXT_SETS["ptb"].bring
    assert not TEXT_SETS["ptb"].verified


def test_only_what_nobody_here_has_seen_is_unverified():
    assert [name for name, dataset in TEXT_SETS.items() if not dataset.verified] == ["enwik8", "ptb"]


def test_a_stand_in_says_whose():
    for name, of in (("enwiki-xml-small", "enwik8"), ("ud-english-ewt", "ptb")):
        assert re.search(rf"stand-in for {of}$", TEXT_SETS[name].what)
