import io
import tarfile

import pytest

from normscope.data.readers.translation import TESTS, TalkPairs


def archive(folder, changed: dict[str, str] | None = None):
    """Write an archive in the form of the distribution: two talks to train, two segments in each test."""
    members = {}
    for language in ("de", "en"):
        lines = []
        for talk in range(2):
            lines += [f"<url>http://x/{talk}</url>", "<keywords>a, b</keywords>"]
            lines += [f"<talkid>{talk}</talkid>", f"<title>Title {language} {talk}</title>"]
            lines += [f"<description>What {language} {talk}</description>"]
            lines += [f" Line {language} {talk}.{line} & more " for line in range(21)]
        members[f"train.tags.de-en.{language}"] = "".join(f"{line}\n" for line in lines)
        for test in TESTS:
            members[f"IWSLT14.{test}.de-en.{language}.xml"] = (
                '<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<doc docid="1">\n<title>no</title>\n'
                f'<seg id="1"> {test} {language} &amp; &quot;so&quot; </seg>\n<seg id="2">two {language}</seg>\n'
                "</doc>\n</mteval>\n"
            )
    members |= changed or {}
    with tarfile.open(folder / "de-en.tgz", "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"de-en/{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return folder / "de-en.tgz"


def test_titles_descriptions_and_lines_are_pairs_and_every_23rd_validates(tmp_path):
    path = archive(tmp_path)
    train, valid = list(TalkPairs(path=path, part="train")), list(TalkPairs(path=path, part="valid"))
    # Two talks with a title, a description and 21 lines each: the 23rd pair is the last one of each talk.
    assert valid == [(f"Line de {talk}.20 & more", f"Line en {talk}.20 & more") for talk in range(2)]
    assert len(train) == 44
    assert train[:3] == [
        ("Title de 0", "Title en 0"),
        ("What de 0", "What en 0"),
        ("Line de 0.0 & more", "Line en 0.0 & more"),
    ]


def test_the_tests_are_joined_in_the_usual_order_without_the_escapes_of_xml(tmp_path):
    pairs = list(TalkPairs(path=archive(tmp_path), part="test"))
    assert [pair[0].split()[0] for pair in pairs[::2]] == list(TESTS)
    assert pairs[0] == ('TED.dev2010 de & "so"', 'TED.dev2010 en & "so"')
    assert len(pairs) == 10


def test_sides_of_different_length_are_refused_by_member(tmp_path):
    path = archive(tmp_path, {"train.tags.de-en.en": "one\n"})
    with pytest.raises(
        ValueError, match=r"train\.tags\.de-en\.en ended after line 1, and .*train\.tags\.de-en\.de goes"
    ):
        list(TalkPairs(path=path, part="train"))
    path = archive(tmp_path, {f"IWSLT14.{TESTS[2]}.de-en.de.xml": '<seg id="1">a</seg>\n'})
    with pytest.raises(ValueError, match=r"TED\.tst2010\.de-en\.de\.xml ended after line 1"):
        list(TalkPairs(path=path, part="test"))
