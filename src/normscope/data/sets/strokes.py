"""Drawings by a pen: the stand-ins for IAM-OnDB, and IAM-OnDB."""

from normscope.data.download import DataFile, DataSet

_DERIVED = (
    "derived from https://github.com/hardmaru/sketch-rnn-datasets, whose arrays are pickled, and only in copies of "
    "this project's data folder"
)

STROKE_SETS: dict[str, DataSet] = {
    "omniglot-strokes": DataSet(
        name="omniglot-strokes",
        what="32,000 handwritten characters of 50 alphabets as pen strokes: a stand-in for iam-ondb",
        files=(
            DataFile(
                name="omniglot_stroke3_flat.npz",
                sha256="46cce271f2e22043cc4f678d3a853c131f4cb3f352363e64e9c7bb880b0a6b2f",
                bytes=2105537,
            ),
        ),
        licence="MIT (B. Lake)",
        home="https://github.com/brendenlake/omniglot",
        folder="strokes",
        bring=_DERIVED,
    ),
    "kanji-strokes": DataSet(
        name="kanji-strokes",
        what="11,100 Chinese characters as pen strokes, drawn by one hand: a stand-in for iam-ondb",
        files=(
            DataFile(
                name="short_kanji_stroke3_flat.npz",
                sha256="1b51af37bbb1f90c9c21535df99bb3dba0a0dcebd1d060a5b2b697205ed77342",
                bytes=1365337,
            ),
        ),
        licence="CC BY-SA 3.0 (U. Apel, KanjiVG)",
        home="https://kanjivg.tagaini.net/",
        folder="strokes",
        bring=_DERIVED,
    ),
    "iam-ondb": DataSet(
        name="iam-ondb",
        what="12,179 lines of English written on a whiteboard by 221 people, with their text",
        files=tuple(
            DataFile(name=name, sha256=None)
            for name in (
                "lineStrokes-all.tar.gz",
                "ascii-all.tar.gz",
                "trainset.txt",
                "testset_v.txt",
                "testset_t.txt",
                "testset_f.txt",
            )
        ),
        licence="for non-commercial research, by registration",
        home="https://fki.tic.heia-fr.ch/databases/iam-on-line-handwriting-database",
        bring="register there, and put the two archives and the four lists of task 1 in that folder as they are",
    ),
}
"""Data sets of pen strokes, by name."""
