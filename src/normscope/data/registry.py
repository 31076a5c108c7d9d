"""The published data sets: files, hashes, sources and licences."""

from normscope.data.download import DataFile, DataSet

_GENSIM = "https://raw.githubusercontent.com/piskvorky/gensim/develop/gensim/test/test_data/"


def _file(name: str, size: int, sha256: str, base: str = "") -> DataFile:
    """Describe a file; its URL is the base and its name."""
    return DataFile(name=name, sha256=sha256, bytes=size, urls=(base + name,) if base else ())


_SENT_CONV = "the two files of data/raw in https://github.com/harvardnlp/sent-conv-torch, each packed with `gzip -n -9`"

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
    "custrev": DataSet(
        name="custrev",
        what="CR: 3,771 sentences of customer reviews, 2,405 positive, 1,366 negative",
        files=(
            _file("custrev.pos.gz", 77457, "54c7125b34ca7688e0f93281651944f2122228e464763a75a1bbdf24dedb998c"),
            _file("custrev.neg.gz", 50536, "50bd2601a38b8e4c33fa0cc5320cf42f22df57065b495b5a9f2f7ee461cca23e"),
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
            _file("subj.objective.gz", 267486, "c228c7cba0fe449f6fbe219bf94d102e09937fcf539733976e16356e9c239396"),
            _file("subj.subjective.gz", 249187, "3aa1802ba42659d93754bc21f2b56c5efc041832275841c3bf2a5ff40ca54625"),
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
            _file("mpqa.pos.gz", 20751, "cf7f02b949d9ab6712132c94ba935227344a8b18b82259dadeb06d4bc56f4b36"),
            _file("mpqa.neg.gz", 56851, "5ba54d3347f5ab814af7c316288bf65634208164de38b6c86caee84fcb4332a9"),
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
    "ptb-wsj-sample": DataSet(
        name="ptb-wsj-sample",
        what="3,914 sentences of the Penn Treebank with heads: the files wsj_0001 to wsj_0199 of NLTK's sample",
        files=(
            _file(
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


_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
_STANFORD = "https://nlp.stanford.edu/projects/nmt/data/"
_TESTS = "https://raw.githubusercontent.com/stefan-it/nmt-en-vi/master/data/"


def _unseen(name: str, address: str) -> DataFile:
    """Describe a file of unknown size and hash."""
    return DataFile(name=name, sha256=None, urls=(address,))


_IWSLT15_TESTS = (
    _file(
        "dev-2012-en-vi.tgz",
        103520,
        "04a0b7ce677cea8ad9dac65bca9492db8183dcfefa458f820597dc46d7486dad",
        _TESTS,
    ),
    _file(
        "test-2013-en-vi.tgz",
        102940,
        "0bbf7cc1ddc4bed68946b005edf9471478445e7994586a277ad4a4b0bb24caa4",
        _TESTS,
    ),
)

PARALLEL_SETS: dict[str, DataSet] = {
    "iwslt14-de-en-sample": DataSet(
        name="iwslt14-de-en-sample",
        what="German-English talks, prepared as usual: 8,627 training pairs of 160,239, and all of valid and test",
        files=(
            _file("train.sample.de.gz", 360409, "0f2a281b317a0363bc19a695e4ff5d5f0c183c60a85022126700bceab6bad681"),
            _file("train.sample.en.gz", 328465, "e51832eaac5fb3f49a5ae9d66acb41956380524e1ce097bba9a79abb1899b847"),
            _file("valid.de.gz", 298904, "b1da9c6171df1ef72cd06dae66197e326bc63ec3d23cf6dc4340b419b6e5ac47"),
            _file("valid.en.gz", 272243, "ac59d064bb5832c71e0c0dd28c63fb70a1dd585312db134fdcf63ab450749397"),
            _file("test.de.gz", 243584, "fc73c9a37732d08c8f9218f1fbabe6eb0d6bae183b0d2efa5e5a8f28dbe530c8"),
            _file("test.en.gz", 219348, "f4a8cd543199bc7df41caf5c0a3d359bb0db367280fdbdae6140fd53a628005f"),
        ),
        licence="TED talks: CC BY-NC-ND",
        home="https://wit3.fbk.eu/",
        folder="iwslt14-de-en",
        bring=(
            "valid and test of the usual preparation before BPE, each packed with `gzip -n -9`; "
            "train.sample is a selection made for this project, and only in copies of its data folder"
        ),
    ),
    "iwslt14-de-en": DataSet(
        name="iwslt14-de-en",
        what="German-English talks, the distribution of IWSLT 2014: untokenized, with tags",
        files=(_unseen("de-en.tgz", "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"),),
        licence="TED talks: CC BY-NC-ND",
        home="https://wit3.fbk.eu/",
    ),
    "iwslt15-en-vi-tests": DataSet(
        name="iwslt15-en-vi-tests",
        what="English-Vietnamese talks, tokenized: tst2012 and tst2013, without the training side",
        files=_IWSLT15_TESTS,
        licence="TED talks: CC BY-NC-ND",
        home="https://nlp.stanford.edu/projects/nmt/",
        folder="iwslt15-en-vi",
    ),
    "iwslt15-en-vi": DataSet(
        name="iwslt15-en-vi",
        what="133,317 English-Vietnamese pairs from talks, tokenized, with tst2012 and tst2013",
        files=(
            *_IWSLT15_TESTS,
            *(_unseen(f"train.{side}", f"{_STANFORD}iwslt15.en-vi/train.{side}") for side in ("en", "vi")),
        ),
        licence="TED talks: CC BY-NC-ND",
        home="https://nlp.stanford.edu/projects/nmt/",
    ),
    "wmt14-en-de": DataSet(
        name="wmt14-en-de",
        what="4.5 million English-German pairs, tokenized, with newstest2013 and newstest2014",
        files=tuple(
            _unseen(f"{part}.{side}", f"{_STANFORD}wmt14.en-de/{part}.{side}")
            for part in ("train", "newstest2013", "newstest2014")
            for side in ("en", "de")
        ),
        licence="WMT sources (Europarl, News Commentary, Common Crawl), for research; unclear",
        home="https://nlp.stanford.edu/projects/nmt/",
    ),
    "wmt-en-de-10k": DataSet(
        name="wmt-en-de-10k",
        what="10,000 English-German training pairs of WMT, tokenized, with 3,000 and 2,737 to validate and test",
        files=(
            _file("src-train.txt.gz", 498795, "d40f414510be2d054e09c0c8bf122016fa6fe798c1175ea7d6d601aec85d4248"),
            _file("tgt-train.txt.gz", 567881, "31b69fac5e44e57420df1ce8b3d287219dd6826ec1963d69ecf4fb14db696379"),
            _file("src-val.txt.gz", 146146, "1cc89a2df2b7346e185dfe35a773e98f07ab52a033444b654024deb8aa6b1139"),
            _file("tgt-val.txt.gz", 172228, "012e7e7fc2394337632c1e0d29c337edc7056cba79258dea8387ffe4aab5184e"),
            _file("src-test.txt.gz", 130335, "59a543a690d69b867f7a7ee431e3b3c5e4f558b0bc533a25a0d25c579f7f95da"),
            _file("tgt-test.txt.gz", 144010, "2aeaa5a6ebe11ce0b90554671d67c15a9cb8f9b0285a973a25659f1e8cb4e7f7"),
        ),
        licence="WMT sources, for research; unclear",
        home="https://github.com/OpenNMT/OpenNMT",
        bring="the six files of its data folder, each packed with `gzip -n -9`",
    ),
    "evbnews-en-vi": DataSet(
        name="evbnews-en-vi",
        what="45,308 English-Vietnamese pairs from 1,000 news documents, tokenized: the stand-in for talks",
        files=(
            _file("evbnews.en.gz", 1712141, "22131e4eeeb6d54a992384f626f7918b5e391deb6c2fd3aea5ed06b236f88848"),
            _file("evbnews.vi.gz", 1950860, "99ee809c981e085292ba3ed55e8655a4ce36dee9e63962bbf87b238314523689"),
            _file("evbnews.ids.gz", 104229, "0b797cb347dc3933fd3b1d27ddaff2a35ab64bc884efe31121961a78cbaa9170"),
        ),
        licence="none stated, academic use; unclear",
        home="https://github.com/qhungngo/EVBCorpus",
        bring="the three files are derived from the publisher's SGML, and only in copies of this project's data folder",
    ),
    "multi30k": DataSet(
        name="multi30k",
        what="31,014 German-English image captions, raw, with test_2016_flickr",
        files=(
            _file(
                "train.de.gz",
                637044,
                "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
                _MULTI30K,
            ),
            _file(
                "train.en.gz",
                568929,
                "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
                _MULTI30K,
            ),
            _file(
                "val.de.gz",
                24681,
                "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
                _MULTI30K,
            ),
            _file(
                "val.en.gz",
                21650,
                "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
                _MULTI30K,
            ),
            _file(
                "test_2016_flickr.de.gz",
                22890,
                "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
                _MULTI30K,
            ),
            _file(
                "test_2016_flickr.en.gz",
                21077,
                "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
                _MULTI30K,
            ),
        ),
        licence="text from Flickr30k: non-commercial research and education; otherwise unclear",
        home="https://github.com/multi30k/dataset",
        folder="multi30k/raw",
    ),
}
"""Data sets of sentence pairs, by name."""


def _mnist_file(name: str, size: int, sha256: str) -> DataFile:
    """Describe one of the four files; both mirrors serve the original bytes, unlike the home page."""
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
    return DataFile(name=name, sha256=sha256, bytes=size, urls=tuple(mirror + name for mirror in mirrors))


SETS: dict[str, DataSet] = {
    "digits": DataSet(
        name="digits",
        what="1,797 handwritten digits, 8 x 8, 17 grey levels: the test half of UCI optdigits",
        files=(
            DataFile(
                name="digits.csv.gz",
                sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
                bytes=57523,
            ),
        ),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        home="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        package="sklearn",
        folder_in_package="datasets/data",
    ),
    "mnist": DataSet(
        name="mnist",
        what="70,000 handwritten digits, 28 x 28, 256 grey levels, in the four original files",
        files=(
            _mnist_file(
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _mnist_file(
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _mnist_file(
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _mnist_file(
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        licence="none stated on the home page; often given as CC BY-SA 3.0; unclear",
        home="http://yann.lecun.com/exdb/mnist/",
    ),
    **TEXT_SETS,
    **PARALLEL_SETS,
}
"""All data sets by name, in the order of tables."""
