"""IWSLT'14 German-English as it was distributed: talks with tags to train, segments in XML to test."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Literal

from normscope.data.parallel import align, tar_lines

EVERY = 23
"""Every 23rd pair validates, as is usual for this set."""

TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
"""Joined in this order they are the usual test side."""

_DROPPED = ("<url>", "<talkid>", "<keywords>")
_TAG = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r'<seg id="[0-9]+">(.*?)</seg>')


@dataclass(frozen=True, kw_only=True)
class TalkPairs:
    """Pairs of the distribution, untokenized and in their case; read anew at every iteration, nothing is extracted.

    The usual 160,239 / 7,283 / 6,750 pairs are what is left after the Moses tokenizer, a limit of 175 tokens and a
    ratio of 1.5, and lower-casing; every 23rd is counted after that. None of it is done here, so train and valid have
    other pairs than the usual ones; valid and test in the usual form are the set ``iwslt14-de-en-sample``.

    Nobody here has seen the archive: this follows its published preparation and was tested on archives made by hand.
    """

    path: Path
    """``de-en.tgz``."""
    part: Literal["train", "valid", "test"]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs, German first, in the archive's order, without those that have an empty side."""
        if self.part == "test":
            for test in TESTS:
                sides = [f"de-en/IWSLT14.{test}.de-en.{language}.xml" for language in ("de", "en")]
                yield from self._aligned(*sides, segments=True)
            return
        train = self._aligned("de-en/train.tags.de-en.de", "de-en/train.tags.de-en.en", segments=False)
        for number, pair in enumerate(train, start=1):
            if (number % EVERY == 0) == (self.part == "valid"):
                yield pair

    def _aligned(self, source: str, target: str, *, segments: bool) -> Iterator[tuple[str, str]]:
        strip = segments_of if segments else talk_lines
        sides = (strip(tar_lines(self.path, member)) for member in (source, target))
        names = (f"{self.path}:{source}", f"{self.path}:{target}")
        return align(*sides, names=names, empty="refuse" if segments else "skip")


def talk_lines(lines: Iterator[str]) -> Iterator[str]:
    """Leave out address, number and keywords of a talk, and the tags around its title and its description."""
    for line in lines:
        if not any(tag in line for tag in _DROPPED):
            yield _TAG.sub("", line).strip()


def segments_of(lines: Iterator[str]) -> Iterator[str]:
    """Give the text of each segment; XML's escapes are undone."""
    for line in lines:
        match = _SEGMENT.search(line)
        if match is not None:
            yield unescape(match[1]).strip()
