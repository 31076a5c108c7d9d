"""The sets of labelled sentences, of running text and of trees."""

from normscope.data.dataset import DataFile, DataSet

_GENSIM = "https://raw.githubusercontent.com/piskvorky/gensim/develop/gensim/test/test_data/"


def _file(name: str, size: int, sha256: str, base: str = "") -> DataFile:
    """Describe one file; its address is the base and its name."""
    return DataFile(name=name, sha256=sha256, bytes=size, urls=(base + name,) if base else ())


TEXT_SETS: dict[str, DataSet] = {
    "rt-polarity": DataSet(
        name="rt-polarity",
        what="10,662 sentences of movie reviews, half positive, half negative, Windows-1252",
        files=(
            _file("rt-polarity.pos.gz", 244019, "e292143517152c751351b29b4e645d89b8b302bf6fb6a6ac28a16eb6e5dab04b"),
            _file("rt-polarity.neg.gz", 241528, "6f9dcf4d8248a4f0a2ad0e39764aff0450e40ac6a4f31aa87a9f1ec1a7869cda"),
        ),
        licence="none stated, research use; the reviews are their writers'; unclear",
        home="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        bring="the two files of rt-polaritydata.tar.gz, each packed with `gzip -n -9`",
    ),
    "sst": DataSet(
        name="sst",
        what="11,855 sentences of movie reviews as trees, a label 0 to 4 at every node",
        files=(
            _file("train.txt.gz", 567105, "479b7122325a64e3783c9382eafebcac3308862dbc2b77cae4ff7acfd751defc"),
            _file("dev.txt.gz", 74467, "83088b1d776a127c06c14bce4acddfe2e6d318f538e2abbb5c9e772f96a8601b"),
            _file("test.txt.gz", 147988, "65b9da00aa0e8107f3e3bf2f620e773457102b1828950ccb12931c103c01afdb"),
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
            _file(
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
            _file(
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
            _file(
                "en_ewt-ud-train.conllu.gz", 2605912, "bd47e08c9e18ec12d319e84df2ccdb272ff6de1d0dba5761117d3caf8b358f7b"
            ),
            _file(
                "en_ewt-ud-dev.conllu.gz", 333837, "41086e3afc9ae572f899c9123f874d6d04a52e374a3d2ac7a6667ce48e3bf3e3"
            ),
            _file(
                "en_ewt-ud-test.conllu.gz", 330912, "29c151eee8846d3f3ef7806c126ecac9932af2317c008c6d6b076c5e14950dbe"
            ),
        ),
        licence="CC BY-SA 4.0",
        home="https://github.com/UniversalDependencies/UD_English-EWT",
        bring="the three .conllu files of release 2.16, each packed with `gzip -n -9`",
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
"""Every set of text in one language, by name."""
