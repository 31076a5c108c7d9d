"""A miniature of every data set: invented text and trees, and digits that scikit-learn ships, in the original formats.

Nothing here is copied from a published set. Words are made of syllables that look like the language; a sentence
is translated word by word, so that a network can learn from it. File names, packing and encoding are those of the
published files, so readers and tasks work on them as on the real ones.
"""

import bz2
import gzip
import hashlib
import io
import json
import os
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from normscope.data.readers.translation import TESTS
from normscope.data.registry import SETS
from normscope.data.store import state
from support import pen_data
from support.children.small_sets import MANIFEST, VARIABLE, miniatures
from support.cifar_data import write_cifar

CHILDREN = Path(__file__).parent / "children"

PUBLISHED = dict(SETS)
"""The sets as the package describes them."""

PAIRS = {"train": 3000, "valid": 400, "test": 200}
"""Sentence pairs of a parallel corpus, as a task reads it: English-German ones, and English-Vietnamese ones."""

REVIEWS = 1600
"""Sentences of each kind in RT polarity."""

OPINIONS = {"custrev": ("neg", "pos"), "subj": ("objective", "subjective"), "mpqa": ("neg", "pos")}
"""Names of the kinds in three sets of sentences, in the order of their labels."""

OPINION_COUNTS = (600, 400)
"""Sentences of the first and of the second kind in each of them, without the repeated ones."""

PHRASES = {"train": 600, "dev": 150, "test": 200}
"""Trees of SST."""

TREES = {"train": 700, "dev": 600, "test": 150}
"""Sentences of the English Web Treebank."""

DIGITS = {"train": 12_000, "t10k": 2_000}
"""Images of MNIST."""

CAPTIONED = {"train": 400, "val": 40, "test_2016": 30}
"""Images of Multi30k with ten descriptions each."""

FEATURES = {"train": 60, "val": 1010, "test": 40}
"""Images of COCO, of 12 features each; of the validation ones, 1,000 are used."""

BINARY_DIGITS = {"train": 3000, "valid": 300, "test": 200}
"""Images of binarized MNIST."""


@dataclass(frozen=True)
class _Language:
    """Words of one look, the most frequent ones first."""

    words: tuple[str, ...]

    @classmethod
    def made(cls, draw: random.Random, onsets: str, nuclei: str, codas: str, syllables: Sequence[int]) -> "_Language":
        starts, middles, ends = onsets.split(), nuclei.split(), ["", *codas.split()]
        found: dict[str, None] = {}
        while len(found) < _WORDS:
            length = draw.choice(syllables)
            word = "".join(draw.choice(starts) + draw.choice(middles) for _ in range(length)) + draw.choice(ends)
            found[word] = None
        return cls(words=tuple(sorted(found, key=lambda word: len(word) + 3 * draw.random())))


_WORDS = 6000
_WEIGHTS = list(accumulate(1 / (4 + rank) for rank in range(_WORDS)))
"""Zipf's law: word number n is as frequent as 1 / (4 + n)."""


def _languages(draw: random.Random) -> tuple[_Language, _Language, _Language]:
    english = _Language.made(
        draw, "b br c cl d f g h l m n p r s st t th w", "a e i o u ea oo", "n r s t ck d", (1, 2, 2, 3)
    )
    german = _Language.made(
        draw, "b d f g h k l m n r sch st t w z", "a e i o u ä ö ü ei au", "n r s t ß ch", (1, 2, 3, 3)
    )
    vietnamese = _Language.made(
        draw,
        "b c ch d đ g h kh l m n ng ph qu t th tr v x",
        "a á à ả ã ạ ô ố ồ ơ ớ ư ứ e ê ế i í u ú",
        "n m ng nh t c p",
        (1, 1, 2),
    )
    return english, german, vietnamese


_OPENINGS = ((0, 1, 0, 2, 3, 1), (2, 0, 1, 4, 0), (5, 0, 1))
"""Words that many captions begin with, so that a network learns a few words in a row soon."""


def _sentences(draw: random.Random, count: int, *, longest: int = 40, opened: bool = False) -> list[list[int]]:
    """Draw different sentences, as the numbers of their words; four of five begin with an opening if asked for."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        length = min(longest, 3 + int(draw.lognormvariate(2.1, 0.45)))
        words = draw.choices(range(_WORDS), cum_weights=_WEIGHTS, k=length)
        if opened and (kind := draw.choice((0, 0, 1, 2, 3))) < len(_OPENINGS):
            words = [*_OPENINGS[kind], *words]
        found[tuple(words)] = None
    return [list(sentence) for sentence in found]


def _raw(words: Iterable[str]) -> str:
    """Write a sentence as people do: a capital, a full stop behind the last word."""
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _tokenized(words: Sequence[str], quoted: bool) -> str:
    """Write a sentence as a tokenizer leaves it, with its escapes."""
    text = _raw(words)[:-1]
    return f"&quot; {text} &quot; , it &apos;s ." if quoted else f"{text} ."


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


class _Folder:
    """Writes files below a folder and remembers what their bytes are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, tuple[str, int]] = {}

    def write(self, place: str, content: bytes) -> None:
        path = self.path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.known[place] = (hashlib.sha256(content).hexdigest(), len(content))

    def gzip(self, place: str, content: bytes) -> None:
        self.write(place, gzip.compress(content, 1, mtime=0))

    def tar(self, place: str, members: dict[str, bytes]) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        self.gzip(place, stream.getvalue())


def write_all(folder: Path) -> None:
    """Write every miniature, and last the list of their hashes."""
    draw = random.Random(20_16)
    english, german, vietnamese = _languages(draw)
    made = _Folder(folder)
    _write_parallel(made, draw, english, german, vietnamese)
    _write_talks(made, draw, english, german)
    _write_reviews(made, draw, english)
    _write_opinions(made, english)
    _write_books(made, english)
    _write_sentence_tests(made, english)
    _write_characters(made, draw, english)
    _write_treebanks(made, draw, english)
    _write_images(made)
    _write_captions(made, english, german)
    write_cifar(made)
    _write_binary_images(made)
    for place, content in pen_data.files().items():
        made.write(place, content)
    _write_novels(made, english)
    _write_news(made, english)
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(made.known))
    os.replace(part, folder / MANIFEST)


Pairs = dict[str, tuple[list[str], list[str]]]


def _pairs(
    sentences: list[list[int]], one: _Language, other: _Language, write: Callable[[list[str], int], str]
) -> Pairs:
    """Translate sentences, the last two words turned round, and cut them into the three parts."""
    found: Pairs = {}
    begin = 0
    for part, count in PAIRS.items():
        some = sentences[begin : begin + count]
        sides = []
        for language, turned in ((one, False), (other, True)):
            orders = ([*words[:-2], words[-1], words[-2]] if turned else words for words in some)
            sides.append([write([language.words[word] for word in order], n) for n, order in enumerate(orders)])
        found[part] = (sides[0], sides[1])
        begin += count
    return found


def _write_parallel(
    made: _Folder, draw: random.Random, english: _Language, german: _Language, vietnamese: _Language
) -> None:
    """Write the corpora whose sides are files of lines."""
    sentences = _sentences(draw, sum(PAIRS.values()), opened=True)

    def tokenized(words: list[str], number: int) -> str:
        return _tokenized(words, number % 9 == 0)

    captions = _pairs(sentences, german, english, lambda words, number: _raw(words))
    names = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
    for part, sides in captions.items():
        for side, texts in zip(("de", "en"), sides, strict=True):
            made.gzip(f"multi30k/raw/{names[part]}.{side}.gz", _lines(texts))
    talks = _pairs(sentences, german, english, lambda words, number: tokenized(words, number).lower())
    names = {"train": "train.sample", "valid": "valid", "test": "test"}
    for part, sides in talks.items():
        for side, texts in zip(("de", "en"), sides, strict=True):
            made.gzip(f"iwslt14-de-en/{names[part]}.{side}.gz", _lines(texts))
    news = _pairs(sentences, english, german, tokenized)
    whole = {"train": "train", "valid": "newstest2013", "test": "newstest2014"}
    for part, sides in news.items():
        for side, name, texts in zip(("src", "tgt"), ("en", "de"), sides, strict=True):
            short = {"train": "train", "valid": "val", "test": "test"}[part]
            made.gzip(f"wmt-en-de-10k/{side}-{short}.txt.gz", _lines(texts))
            made.write(f"wmt14-en-de/{whole[part]}.{name}", _lines(texts))
    vietnam = _pairs(sentences, english, vietnamese, tokenized)
    for side, texts in zip(("en", "vi"), vietnam["train"], strict=True):
        made.write(f"iwslt15-en-vi/train.{side}", _lines(texts))
    for part, archive, member in (("valid", "dev-2012", "tst2012"), ("test", "test-2013", "tst2013")):
        sides = zip(("en", "vi"), vietnam[part], strict=True)
        made.tar(f"iwslt15-en-vi/{archive}-en-vi.tgz", {f"{member}.{side}": _lines(texts) for side, texts in sides})
    # Forty documents of equal length, two of them held out by their numbers; one pair stands in two documents.
    english_side, vietnamese_side = (list(side) for side in vietnam["train"])
    length = len(english_side) // 40
    held = 19 * length
    english_side[3], vietnamese_side[3] = english_side[held], vietnamese_side[held]
    ids = [f"N{1 + n // length:04}.{1 + n % length}" for n in range(len(english_side))]
    for name, texts in (("en", english_side), ("vi", vietnamese_side), ("ids", ids)):
        made.gzip(f"evbnews-en-vi/evbnews.{name}.gz", _lines(texts))


def _write_talks(made: _Folder, draw: random.Random, english: _Language, german: _Language) -> None:
    """Write the archive of IWSLT'14: talks between tags to train, segments in XML to test."""
    sentences = _sentences(draw, sum(PAIRS.values()))
    members = {}
    for side, language in (("de", german), ("en", english)):
        texts = [_raw([language.words[word] for word in words]) for words in sentences]
        lines = []
        for talk, begin in enumerate(range(0, PAIRS["train"] + PAIRS["valid"], 100)):
            lines += [f"<url>http://www.example.org/talks/{talk}</url>", "<keywords>talks, science</keywords>"]
            lines += [f"<talkid>{talk}</talkid>", f"<title>{texts[begin]}</title>"]
            lines += [
                f"<description>{texts[begin + 1]}</description>",
                *(f" {text} " for text in texts[begin : begin + 100]),
            ]
        members[f"de-en/train.tags.de-en.{side}"] = _lines(lines)
        share = PAIRS["test"] // len(TESTS)
        for number, test in enumerate(TESTS):
            begin = PAIRS["train"] + PAIRS["valid"] + number * share
            segments = "".join(
                f'<seg id="{n}"> {text} </seg>\n' for n, text in enumerate(texts[begin : begin + share], 1)
            )
            members[f"de-en/IWSLT14.{test}.de-en.{side}.xml"] = (
                '<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n'
                '<refset setid="tests" srclang="German" trglang="any">\n'
                f'<doc docid="1" genre="lectures">\n<title>A talk</title>\n{segments}</doc>\n</refset>\n</mteval>\n'
            ).encode()
    made.tar("iwslt14-de-en/de-en.tgz", members)


def _opinion(words: Sequence[int]) -> int:
    """Give a class from 0 to 4: the words decide, every third one of them speaks for or against."""
    balance = sum((word % 3 == 1) - (word % 3 == 2) for word in words if word < 300)
    return max(0, min(4, 2 + balance))


def _write_reviews(made: _Folder, draw: random.Random, english: _Language) -> None:
    """Write RT polarity in Windows-1252, and the trees of SST."""
    marks = (" – ", " — ", " … ", " ‘tis ", " café ")
    kinds: dict[str, list[str]] = {"pos": [], "neg": []}
    for number, words in enumerate(_sentences(draw, 6 * REVIEWS, longest=50)):
        if (kind := _opinion(words)) != 2:
            text = " ".join(english.words[word] for word in words)
            text += f"{marks[number % len(marks)]}, {kind} ." if number % 7 == 0 else " ."
            kinds["pos" if kind > 2 else "neg"].append(" ".join(text.split()))
    for kind, texts in kinds.items():
        assert len(texts) >= REVIEWS
        made.gzip(
            f"rt-polarity/rt-polarity.{kind}.gz", "".join(f"{text}\n" for text in texts[:REVIEWS]).encode("cp1252")
        )

    def tree(words: list[int]) -> str:
        if len(words) == 1:
            word = english.words[words[0]]
            special = {0: "-LRB-", 1: "-RRB-", 2: "and\\/or", 3: "1\xa01\\/2"}
            return f"({_opinion(words)} {special.get(words[0], word)})"
        cut = draw.randrange(1, len(words))
        return f"({_opinion(words)} {tree(words[:cut])} {tree(words[cut:])})"

    for part, count in PHRASES.items():
        made.gzip(f"sst/trees/{part}.txt.gz", _lines(tree(words) for words in _sentences(draw, count)))


def _write_opinions(made: _Folder, english: _Language) -> None:
    """Write CR, SUBJ and MPQA, with blank lines and spaces at the ends; MPQA is short and repeats phrases."""
    for seed, (name, kinds) in enumerate(OPINIONS.items()):
        draw = random.Random(seed)
        sides: tuple[list[str], list[str]] = ([], [])
        longest = 6 if name == "mpqa" else 50
        for words in _sentences(draw, 4 * sum(OPINION_COUNTS), longest=longest):
            if (kind := _opinion(words)) != 2:
                sides[kind > 2].append(" ".join(english.words[word] for word in words))
        for kind, side, count in zip(kinds, sides, OPINION_COUNTS, strict=True):
            assert len(side) >= count
            lines = [f"{text} " for text in side[:count]]
            if name == "mpqa":
                # One phrase in ten stands there three times, and one phrase has both labels.
                lines += 2 * lines[::10] + [sides[0][1]]
            made.gzip(f"sentence-eval/{name}.{kind}.gz", _lines([*lines, "", " "]))


def _write_books(made: _Folder, english: _Language) -> None:
    """Write books as BookCorpus does: a sentence a line."""
    for part in (1, 2):
        books = _sentences(random.Random(f"books {part}"), 500)
        lines = [" ".join([*(english.words[word] for word in words), "."]) for words in books]
        made.write(f"book-corpus/books_large_p{part}.txt", _lines(lines))


def _write_sentence_tests(made: _Folder, english: _Language) -> None:
    """Write TREC, whose first word names the kind of a question, and SICK, whose pairs share words."""
    for part, count in (("train", 300), ("test", 60)):
        draw, kinds = random.Random(f"trec {part}"), ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
        lines = []
        for number, words in enumerate(_sentences(draw, count, longest=12)):
            kind = number % len(kinds)
            text = " ".join(english.words[word] for word in [kind, *words])
            lines.append(f"{kinds[kind]}:fine {text[0].upper()}{text[1:]} ?")
        made.gzip(f"sentence-eval/TREC.{part}.gz", "".join(f"{line}\n" for line in lines).encode("cp1252"))
    for part, count in (("train", 120), ("trial", 40), ("test_annotated", 60)):
        draw = random.Random(f"sick {part}")
        lines = ["pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"]
        for number, words in enumerate(_sentences(draw, count, longest=12), 1):
            share = draw.random()
            other = [word if draw.random() < share else draw.randrange(300) for word in words]
            sides = "\t".join(" ".join(english.words[word] for word in side).capitalize() for side in (words, other))
            lines.append(f"{number}\t{sides}\t{1 + 4 * share:.1f}\tNEUTRAL")
        made.gzip(f"sentence-eval/sick2014/SICK_{part}.txt.gz", _lines(lines))


def _write_characters(made: _Folder, draw: random.Random, english: _Language) -> None:
    """Write two texts of exactly the published lengths, which the reader insists on."""
    size = 1_115_394
    # The 65 characters of the published text.
    lines = ["!$&',-.3:;? ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz"]
    names = [word.upper() for word in english.words[:40]]
    written = len(lines[0]) + 1
    for words in _sentences(draw, 21_000):
        lines.append(f"{draw.choice(names)}:\n{_raw(english.words[word] for word in words)}\n")
        written += len(lines[-1]) + 1
        if written >= size:
            break
    text = "\n".join(lines).encode("ascii")
    assert len(text) >= size, f"{len(text)} characters of {size}"
    made.gzip("text-small/tinyshakespeare_input.txt.gz", text[:size])
    size = 6_089_746
    pages = "".join(
        f"  <page>\n    <title>{english.words[number]}</title>\n    <text xml:space=\"preserve\">'''{paragraph}'''"
        f" [[{english.words[number + 1]}]] &amp; café</text>\n  </page>\n"
        for number, paragraph in enumerate(text[100:300_000].decode("ascii").replace("&", "&amp;").split("\n\n")[:3000])
    ).encode()
    start, end = b'<mediawiki xml:lang="en">\n', b"</mediawiki>\n"
    room = size - len(start) - len(end) - len(b"<!---->")
    body = pages * (room // len(pages))
    filler = b"<!--" + b"." * (room - len(body)) + b"-->"
    name = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
    made.write(f"enwiki-xml-small/{name}", bz2.compress(start + body + filler + end, 1))


TITLES = {
    "98-a-tale-of-two-cities": "A Tale of Two Cities",
    "145-middlemarch": "Middlemarch",
    "345-dracula": "Dracula",
    "514-little-women": "Little Women",
    "1342-pride-and-prejudice": "Pride and Prejudice",
    "1400-great-expectations": "Great Expectations",
    "1661-the-adventures-of-sherlock-holmes": "The Adventures of Sherlock Holmes",
    "2701-moby-dick": "Moby Dick; or The Whale",
    "14263-katrine": "Katrine",
    "15122-the-little-colonels-hero": "The Little Colonel's Hero",
    "16215-jack-sheppard": "Jack Sheppard",
}
"""Novels by file."""


def _write_novels(made: _Folder, english: _Language) -> None:
    """Write novels whose nouns go with their verbs, with names of their own, between header and licence."""
    draw = random.Random(21)
    nouns, verbs = english.words[100:130], english.words[400:430]
    for place, (file, title) in enumerate(TITLES.items()):
        names = [word.capitalize() for word in english.words[600 + 16 * place : 616 + 16 * place]]
        lines = [
            f"Title: {title}",
            "",
            f"*** START OF THIS PROJECT GUTENBERG EBOOK {title.upper()} ***",
            "",
            "CHAPTER I",
        ]
        for _ in range(30):
            lines.append("")
            for _ in range(4):
                one, other = draw.sample(range(30), 2)
                lines.append(f"Then {draw.choice(names)} {verbs[one]} the {nouns[one]},")
                lines.append(f"and {draw.choice(names)} {verbs[other]} a {nouns[other]}.")
        lines += ["", f"*** END OF THIS PROJECT GUTENBERG EBOOK {title.upper()} ***", "The licence."]
        made.gzip(f"gutenberg-novels/{file}.txt.gz", "".join(f"{line}\r\n" for line in lines).encode("ascii"))


def _write_news(made: _Folder, english: _Language) -> None:
    """Write CNN question files: of the entities of an article, the missing one goes with the question's verb."""
    draw = random.Random(22)
    verbs = english.words[400:420]
    members = {}
    for folder, count in (("training", 200), ("validation", 20), ("test", 20)):
        for number in range(count):
            entities = [f"@entity{n}" for n in draw.sample(range(12), 6)]
            deeds = draw.sample(verbs, 6)
            article = " ".join(f"{entity} {deed} the {deed} ." for entity, deed in zip(entities, deeds, strict=True))
            answer = draw.randrange(6)
            parts = (
                f"http://www.example.org/{folder}/{number}",
                article,
                f"@placeholder {deeds[answer]} the {deeds[answer]}",
                entities[answer],
                "\n".join(f"{entity}:{english.words[n].capitalize()}" for n, entity in enumerate(entities)),
            )
            members[f"cnn/questions/{folder}/{number:040x}.question"] = "\n\n".join(parts).encode()
    made.tar("cnn-questions/cnn.tgz", members)


_TAGS = (("NOUN", "NN"), ("VERB", "VBD"), ("ADJ", "JJ"), ("ADV", "RB"), ("DET", "DT"), ("PRON", "PRP"), ("ADP", "IN"))
_SMALL = {"DET", "ADJ", "ADP"}
_RELATIONS = {
    "NOUN": ("nsubj", "obj", "obl", "conj"),
    "VERB": ("root", "acl", "advcl", "xcomp"),
    "ADJ": ("amod", "amod", "amod", "xcomp"),
    "ADV": ("advmod",) * 4,
    "DET": ("det",) * 4,
    "PRON": ("nsubj", "obj", "nmod:poss", "expl"),
    "ADP": ("case",) * 4,
}


def _trees(draw: random.Random, english: _Language, count: int) -> Iterator[list[tuple[str, str, str, int, str]]]:
    """Yield sentences with heads: small words hang on the noun or verb behind them, the others on the verb.

    Every fifteenth sentence has arcs that cross.
    """
    for number, words in enumerate(_sentences(draw, count, longest=25)):
        tags = [_TAGS[word % 7] for word in words]
        verbs = [place for place, tag in enumerate(tags) if tag[0] == "VERB"]
        root = verbs[0] if verbs else 0
        heads, relations = [], []
        for place, (tag, _) in enumerate(tags):
            behind = next((at for at in range(place + 1, len(tags)) if tags[at][0] not in _SMALL), None)
            # A small word hangs on the noun or verb that follows it and other small words, all else on the root.
            follows = tag in _SMALL and behind is not None and tags[behind][0] in {"NOUN", "VERB"}
            head = behind if follows and behind is not None and not place < root < behind else root
            heads.append(-1 if place == root else head)
            relations.append(
                "root"
                if place == root
                else _RELATIONS[tag][words[place] % 3 if tag != "VERB" else 1 + words[place] % 3]
            )
        heads.append(root)
        relations.append("punct")
        tags.append(("PUNCT", "."))
        if number % 15 == 7 and root >= 3:
            # The first hangs on the third, and the second on the root behind them.
            heads[0], heads[1], heads[2] = 2, root, root
        forms = [*(english.words[word] for word in words), "."]
        yield [
            (form, upos, xpos, head + 1, relation)
            for form, (upos, xpos), head, relation in zip(forms, tags, heads, relations, strict=True)
        ]


def _write_treebanks(made: _Folder, draw: random.Random, english: _Language) -> None:
    """Write CoNLL-U with comments, a multiword token and an empty node here and there; and CoNLL-X without them."""
    for part, count in TREES.items():
        lines = []
        for number, rows in enumerate(_trees(draw, english, count)):
            lines += [f"# sent_id = invented-{part}-{number:04}", f"# text = {' '.join(row[0] for row in rows)}"]
            for place, (form, upos, xpos, head, relation) in enumerate(rows, 1):
                if number % 6 == 0 and place == 2:
                    lines.append(f"2-3\t{form}{rows[2][0]}" + "\t_" * 8)
                deps, mood = f"{head}:{relation}", "Number=Sing" if upos == "NOUN" else "_"
                lines.append(f"{place}\t{form}\t{form.lower()}\t{upos}\t{xpos}\t{mood}\t{head}\t{relation}\t{deps}\t_")
                if number % 50 == 0 and place == 2:
                    lines.append("2.1\tgone\tgo\tVERB\tVBN\t_\t_\t_\t2:conj\t_")
            lines.append("")
        made.gzip(f"ud-english-ewt/en_ewt-ud-{part}.conllu.gz", _lines(lines))
        short = [
            "".join(f"{n}\t{f}\t_\t{u}\t{x}\t_\t{h}\t{r}\t_\t_\n" for n, (f, u, x, h, r) in enumerate(rows, 1))
            for rows in _trees(draw, english, count // 5)
        ]
        made.write(f"ptb/{part}.conllx", "\n".join(short).encode())
    draw = random.Random(199)
    articles = {
        f"dependency_treebank/wsj_{number:04}.dp": "\n".join(
            "".join(f"{form}\t{tag}\t{head}\n" for form, _, tag, head, _ in rows)
            for rows in _trees(draw, english, draw.randrange(8, 40))
        )
        for number in range(1, 200, 5)
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("dependency_treebank/"), "")
        for name, text in reversed(articles.items()):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    made.write("ptb-wsj-sample/dependency_treebank.zip", stream.getvalue())


def _write_images(made: _Folder) -> None:
    """Write MNIST's four files: the digits that scikit-learn ships, three times as large and moved about."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    images = np.pad(np.kron(images.reshape(-1, 8, 8) * (255 / 16), np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    images = images.astype(np.uint8)
    begin = 0
    for part, count in DIGITS.items():
        # Other digits to test than to train.
        pool = np.arange(0, 1500) if part == "train" else np.arange(1500, len(labels))
        chosen = rng.choice(pool, count)
        moves = rng.integers(-2, 3, (count, 2))
        moved = np.stack([np.roll(images[one], tuple(move), (0, 1)) for one, move in zip(chosen, moves, strict=True)])
        head = struct.pack(">4I", 0x0803, count, 28, 28)
        made.gzip(f"mnist/{part}-images-idx3-ubyte.gz", head + moved.tobytes())
        values = labels[chosen].astype(np.uint8)
        made.gzip(f"mnist/{part}-labels-idx1-ubyte.gz", struct.pack(">2I", 0x0801, count) + values.tobytes())
        begin += count


def _write_captions(made: _Folder, english: _Language, german: _Language) -> None:
    """Write descriptions of a few things, some of which each description names; and captions with features of them."""
    draw, rng = random.Random(5), np.random.default_rng(5)
    for part, count in CAPTIONED.items():
        scenes = [draw.sample(range(5, 400), 9) for _ in range(count)]
        for side, language in (("en", english), ("de", german)):
            for number in range(1, 6):
                seen = ([0, *draw.sample(scene, 6 - number // 2)] for scene in scenes)
                texts = (f"{_raw(language.words[word] for word in words)[:-1]}, ...!" for words in seen)
                made.gzip(f"multi30k/task2/{part}.{number}.{side}.gz", _lines(texts))
    for part, count in FEATURES.items():
        scenes = rng.integers(5, 50, (count, 3))
        texts = (" ".join(english.words[word] for word in rng.permutation(scene)) for scene in scenes for _ in range(5))
        made.write(f"coco/{part}.txt", _lines(texts))
        stream = io.BytesIO()
        vectors = rng.random((count, 12), dtype=np.float32)
        np.save(stream, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        made.write(f"coco/images/10crop/{part}.npy", stream.getvalue())


def _write_binary_images(made: _Folder) -> None:
    """Write binarized MNIST's three files: the digits that scikit-learn ships, three times as large, sorted, drawn."""
    from scipy.io import savemat
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(1)
    images, labels = load_digits(return_X_y=True)
    images = np.pad(np.kron(images.reshape(-1, 8, 8) / 16, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    for part, count in BINARY_DIGITS.items():
        pool = np.arange(0, 1500) if part == "train" else np.arange(1500, len(labels))
        chosen = np.sort(rng.choice(pool, count))
        chosen = chosen[np.argsort(labels[chosen], kind="stable")]
        drawn = rng.random((count, 28, 28)) < images[chosen]
        stream = io.BytesIO()
        savemat(stream, {"X": drawn.reshape(count, 784).astype(np.uint8)}, do_compression=True)
        # The text of the header ends with the time of writing.
        content = b"MATLAB 5.0 MAT-file".ljust(116) + stream.getvalue()[116:]
        made.write(f"binarized-mnist/binarized_mnist_{part}.mat", content)


def folder_of(temporary: pytest.TempPathFactory) -> Path:
    """Give the folder of miniatures of this test run, which all its worker processes share; the first one writes it."""
    from filelock import FileLock

    base = temporary.getbasetemp()
    root = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = root / "small-data"
    with FileLock(root / "small-data.lock"):
        if not (folder / MANIFEST).is_file():
            write_all(folder)
    return folder


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the package at the miniatures, here and in every process that is started from here."""
    monkeypatch.setenv("NORMSCOPE_DATA", str(folder))
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(CHILDREN), os.environ.get("PYTHONPATH")])))
    for name, dataset in miniatures(SETS, folder).items():
        monkeypatch.setitem(SETS, name, dataset)


def use_published(folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo :func:`use`, and point the package at a folder of the published sets; without one, at the cache."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("NORMSCOPE_DATA", raising=False)
    if folder:
        monkeypatch.setenv("NORMSCOPE_DATA", folder)
    for name, dataset in PUBLISHED.items():
        monkeypatch.setitem(SETS, name, dataset)


def missing(names: Iterable[str]) -> dict[str, str]:
    """Say which of these sets are not on this machine, and why."""
    return {name: found.description for name in names if not (found := state(SETS[name])).ready}
