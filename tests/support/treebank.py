"""What the parser's tests parse: one sentence made by hand, and a treebank read without our reader."""

import gzip
import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sentence:
    forms: tuple[str, ...]
    upos: tuple[str, ...]
    xpos: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]


CAT = Sentence(
    forms=("my", "cat", "today", "saw", "dogs", "running", "fast", "."),
    upos=("PRON", "NOUN", "NOUN", "VERB", "NOUN", "VERB", "ADV", "PUNCT"),
    xpos=("PRP$", "NN", "NN", "VBD", "NNS", "VBG", "RB", "."),
    heads=(2, 4, 4, 0, 4, 5, 6, 4),
    relations=("poss", "nsubj", "advmod", "root", "obj", "acl", "advmod", "punct"),
)

CROSSED = replace(
    CAT,
    forms=CAT.forms[:4],
    upos=CAT.upos[:4],
    xpos=CAT.xpos[:4],
    heads=(3, 4, 0, 3),
    relations=("obj", "obj", "root", "obj"),
)
"""Four words of it: 1 hangs on 3, and 2 on 4, so the arcs cross."""


def read_treebank(part: str) -> list[Sentence]:
    """Read a part of the treebank that the test sees: the miniature, or the published one."""
    path = Path(os.environ["NORMSCOPE_DATA"]) / "ud-english-ewt" / f"en_ewt-ud-{part}.conllu.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        blocks = file.read().strip().split("\n\n")
    sentences = []
    for block in blocks:
        rows = [line.split("\t") for line in block.splitlines() if not line.startswith("#")]
        _, forms, _, upos, xpos, _, heads, relations, _, _ = zip(
            *(row for row in rows if row[0].isdigit()), strict=True
        )
        heads = tuple(map(int, heads))
        sentences.append(Sentence(forms=forms, upos=upos, xpos=xpos, heads=heads, relations=relations))
    return sentences
