"""What skip-thoughts are trained and tested on, beside novels and the sets of two classes."""

from normscope.data.download import DataFile, DataSet


def _file(name: str, size: int, sha256: str) -> DataFile:
    return DataFile(name=name, bytes=size, sha256=sha256)


SKIP_THOUGHTS_SETS: dict[str, DataSet] = {
    "book-corpus": DataSet(
        name="book-corpus",
        what="BookCorpus: 74 million sentences of 11,038 books, one a line: the user's own copy",
        # The corpus is no longer given out, and its hashes were not published.
        files=tuple(
            DataFile(name=f"books_large_p{part}.txt", sha256=None, other_names=(f"books_large_p{part}.txt.gz",))
            for part in (1, 2)
        ),
        licence="none stated; the books are their writers', and the corpus is no longer given out",
        home="https://yknzhu.wixsite.com/mbweb",
        bring="the two files books_large_p1.txt and books_large_p2.txt of Zhu et al. (2015), or both packed with gzip",
    ),
    "trec": DataSet(
        name="trec",
        what="TREC: 5,452 questions to train and 500 to test, six kinds of answers, Windows-1252",
        files=(
            _file("TREC.train.gz", 114817, "0d8d208d08ab10e8984655eec590a088ad922522f542b79975a1cdeedcf824e7"),
            _file("TREC.test.gz", 7702, "366705c9150d3442b1ca366ce7da02943c4d1304bf6c4e847d5cf14d6172f09d"),
        ),
        licence="none stated, research use; unclear",
        home="https://cogcomp.seas.upenn.edu/Data/QA/QC/",
        folder="sentence-eval",
        bring="two files of data/raw in https://github.com/harvardnlp/sent-conv-torch, each packed with `gzip -n -9`",
    ),
    "sick2014": DataSet(
        name="sick2014",
        what="SICK: 9,927 pairs of sentences with their relatedness from 1 to 5, 4,500 / 500 / 4,927",
        files=(
            _file("SICK_train.txt.gz", 85522, "c998377ca2a2783cdc54ff4413ac88b54f80069edac52430f8cd1307e38bd7d1"),
            _file("SICK_trial.txt.gz", 15325, "ce8d65b86b2f48c2161c93ec93ecdffd91a9171d7c83973ccd1c9e24bdc4954a"),
            _file(
                "SICK_test_annotated.txt.gz", 91429, "a43dd0ccf87aad4f0e591cd42e6428ed34a2e3880da5948607d2dfa2fba6f4ee"
            ),
        ),
        licence="CC BY-NC-SA 3.0",
        home="https://alt.qcri.org/semeval2014/task1/",
        folder="sentence-eval/sick2014",
        bring=(
            "the files of sick_train.zip, sick_trial.zip and sick_test_annotated.zip of SemEval 2014, task 1, each "
            "packed with `gzip -n -9`"
        ),
    ),
}
"""Data sets of skip-thoughts, by name."""
