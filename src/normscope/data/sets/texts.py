"""Data sets of text in a single language."""

from normscope.data.download import DataFile, DataSet, known_file

_GENSIM = "https://raw.githubusercontent.com/piskvorky/gensim/develop/gensim/test/test_data/"
_SENT_CONV = "the two files of data/raw in https://github.com/harvardnlp/sent-conv-torch, each packed with `gzip -n -9`"

TEXT_SETS: dict[str, DataSet] = {
    "rt-polarity": DataSet(
        name="rt-polarity",
        what="10,662 sentences of movie reviews, half positive, half negative, Windows-1252",
        files=(
            known_file(
                "rt-polarity.pos.gz", 244019, "e292143517152c751351b29b4e645d89b8b302bf6fb6a6ac28a16eb6e5dab04b"
            ),
            known_file(
                "rt-polarity.neg.gz", 241528, "6f9dcf4d8248a4f0a2ad0e39764aff0450e40ac6a4f31aa87a9f1ec1a7869cda"
            ),
        ),
        licence="none stated, research use; the reviews are their writers'; unclear",
        home="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        bring="the two files of rt-polaritydata.tar.gz, each packed with `gzip -n -9`",
    ),
    "custrev": DataSet(
        name="custrev",
        what="CR: 3,771 sentences of customer reviews, 2,405 positive, 1,366 negative",
        files=(
            known_file("custrev.pos.gz", 77457, "54c7125b34ca7688e0f93281651944f2122228e464763a75a1bbdf24dedb998c"),
            known_file("custrev.neg.gz", 50536, "50bd2601a38b8e4c33fa0cc5320cf42f22df57065b495b5a9f2f7ee461cca23e"),
        ),
        licence="none stated, research use; unclear",
        home="https://www.cs.uic.edu/~liub/FBS/sentiment-analysis.html",
        folder="sentence-eval",
        bring=_SENT_CONV,
    ),
    "subj": DataSet(
        name="subj",
        what="SUBJ: 5,000 objective sentences of film plots, 5,000 subjective ones of reviews, Windows-1252",
        files=(
            known_file("subj.objective.gz", 267486, "c228c7cba0fe449f6fbe219bf94d102e09937fcf539733976e16356e9c239396"),
            known_file(
                "subj.subjective.gz", 249187, "3aa1802ba42659d93754bc21f2b56c5efc041832275841c3bf2a5ff40ca54625"
            ),
        ),
        licence="none stated, research use; unclear",
        home="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        folder="sentence-eval",
        bring=_SENT_CONV,
    ),
    "mpqa": DataSet(
        name="mpqa",
        what="MPQA: 10,603 opinions from news, 3,311 positive, 7,292 negative",
        files=(
            known_file("mpqa.pos.gz", 20751, "cf7f02b949d9ab6712132c94ba935227344a8b18b82259dadeb06d4bc56f4b36"),
            known_file("mpqa.neg.gz", 56851, "5ba54d3347f5ab814af7c316288bf65634208164de38b6c86caee84fcb4332a9"),
        ),
        licence="none stated, research use; unclear",
        home="http://mpqa.cs.pitt.edu/",
        folder="sentence-eval",
        bring=_SENT_CONV,
    ),
    "sst": DataSet(
        name="sst",
        what="11,855 sentences of movie reviews as trees, a label 0 to 4 at every node",
        files=(
            known_file("train.txt.gz", 567105, "479b7122325a64e3783c9382eafebcac3308862dbc2b77cae4ff7acfd751defc"),
            known_file("dev.txt.gz", 74467, "83088b1d776a127c06c14bce4acddfe2e6d318f538e2abbb5c9e772f96a8601b"),
            known_file("test.txt.gz", 147988, "65b9da00aa0e8107f3e3bf2f620e773457102b1828950ccb12931c103c01afdb"),
        ),
        licence="none stated; unclear",
        home="https://nlp.stanford.edu/sentiment/",
        folder="sst/trees",
        bring="the three files of trainDevTestTrees_PTB.zip, each packed with `gzip -n -9`",
    ),
    "enwiki-xml-small": DataSet(
        name="enwiki-xml-small",
        what="6.1 MB of English Wikipedia as XML, 2016, 206 pages: the stand-in for enwik8",
        files=(
            known_file(
                "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
                1695871,
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
                _GENSIM,
            ),
        ),
        licence="CC BY-SA 3.0 and GFDL",
        home="https://dumps.wikimedia.org/enwiki/",
    ),
    "enwik8": DataSet(
        name="enwik8",
        what="the first 100,000,000 bytes of English Wikipedia as XML, 2006",
        # The packed file's sha256 is unknown here; the md5 of what is in it is published, and the reader checks it.
        files=(DataFile(name="enwik8.zip", sha256=None, urls=("http://mattmahoney.net/dc/enwik8.zip",)),),
        licence="GFDL (CC BY-SA 3.0 since 2009)",
        home="http://mattmahoney.net/dc/textdata.html",
    ),
    "text-small": DataSet(
        name="text-small",
        what="tinyshakespeare: 1,115,394 characters, 65 distinct ones",
        files=(
            known_file(
                "tinyshakespeare_input.txt.gz",
                433627,
                "bed00f18e91cda6838950656f0a95e07e0f4dbe8649a4b959f7602a7e53fbc6e",
            ),
        ),
        licence="public domain",
        home="https://github.com/karpathy/char-rnn",
        bring="data/tinyshakespeare/input.txt, renamed tinyshakespeare_input.txt and packed with `gzip -n -9`",
    ),
    "ud-english-ewt": DataSet(
        name="ud-english-ewt",
        what="16,622 English sentences with dependency trees, Universal Dependencies v2.16: the stand-in for ptb",
        files=(
            known_file(
                "en_ewt-ud-train.conllu.gz", 2605912, "bd47e08c9e18ec12d319e84df2ccdb272ff6de1d0dba5761117d3caf8b358f7b"
            ),
            known_file(
                "en_ewt-ud-dev.conllu.gz", 333837, "41086e3afc9ae572f899c9123f874d6d04a52e374a3d2ac7a6667ce48e3bf3e3"
            ),
            known_file(
                "en_ewt-ud-test.conllu.gz", 330912, "29c151eee8846d3f3ef7806c126ecac9932af2317c008c6d6b076c5e14950dbe"
            ),
        ),
        licence="CC BY-SA 4.0",
        home="https://github.com/UniversalDependencies/UD_English-EWT",
        bring="the three .conllu files of release 2.16, each packed with `gzip -n -9`",
    ),
    "ptb-wsj-sample": DataSet(
        name="ptb-wsj-sample",
        what="3,914 sentences of the Penn Treebank with heads: the files wsj_0001 to wsj_0199 of NLTK's sample",
        files=(
            known_file(
                "dependency_treebank.zip",
                457429,
                "0df483999f1391f32b141d6047d8ce19efd0a5a3e63ca019bfc4af8530f51fbd",
                "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/",
            ),
        ),
        licence="given out by NLTK for non-commercial use, as fair use; the Penn Treebank itself is LDC's",
        home="https://www.nltk.org/nltk_data/",
    ),
    "ptb": DataSet(
        name="ptb",
        what="Penn Treebank dependency trees: the user's own licensed copy, converted to CoNLL-X or CoNLL-U",
        files=tuple(
            DataFile(
                name=f"{part}.conllx",
                sha256=None,
                other_names=(f"{part}.conllu", f"{part}.conllx.gz", f"{part}.conllu.gz"),
            )
            for part in ("train", "dev", "test")
        ),
        licence="LDC user agreement, not redistributable",
        home="https://catalog.ldc.upenn.edu/LDC99T42",
        bring="the trees are licensed (LDC99T42): convert your own copy, usually sections 2-21, 22 and 23",
    ),
}
"""Data sets of text in a single language, by name."""
