"""Data sets of sentence pairs."""

from normscope.data.download import DataSet, known_file, unseen_file

_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
_STANFORD = "https://nlp.stanford.edu/projects/nmt/data/"
_TESTS = "https://raw.githubusercontent.com/stefan-it/nmt-en-vi/master/data/"

_IWSLT15_TESTS = (
    known_file(
        "dev-2012-en-vi.tgz",
        103520,
        "04a0b7ce677cea8ad9dac65bca9492db8183dcfefa458f820597dc46d7486dad",
        _TESTS,
    ),
    known_file(
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
            known_file(
                "train.sample.de.gz", 360409, "0f2a281b317a0363bc19a695e4ff5d5f0c183c60a85022126700bceab6bad681"
            ),
            known_file(
                "train.sample.en.gz", 328465, "e51832eaac5fb3f49a5ae9d66acb41956380524e1ce097bba9a79abb1899b847"
            ),
            known_file("valid.de.gz", 298904, "b1da9c6171df1ef72cd06dae66197e326bc63ec3d23cf6dc4340b419b6e5ac47"),
            known_file("valid.en.gz", 272243, "ac59d064bb5832c71e0c0dd28c63fb70a1dd585312db134fdcf63ab450749397"),
            known_file("test.de.gz", 243584, "fc73c9a37732d08c8f9218f1fbabe6eb0d6bae183b0d2efa5e5a8f28dbe530c8"),
            known_file("test.en.gz", 219348, "f4a8cd543199bc7df41caf5c0a3d359bb0db367280fdbdae6140fd53a628005f"),
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
        files=(unseen_file("de-en.tgz", "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"),),
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
            *(unseen_file(f"train.{side}", f"{_STANFORD}iwslt15.en-vi/train.{side}") for side in ("en", "vi")),
        ),
        licence="TED talks: CC BY-NC-ND",
        home="https://nlp.stanford.edu/projects/nmt/",
    ),
    "wmt14-en-de": DataSet(
        name="wmt14-en-de",
        what="4.5 million English-German pairs, tokenized, with newstest2013 and newstest2014",
        files=tuple(
            unseen_file(f"{part}.{side}", f"{_STANFORD}wmt14.en-de/{part}.{side}")
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
            known_file("src-train.txt.gz", 498795, "d40f414510be2d054e09c0c8bf122016fa6fe798c1175ea7d6d601aec85d4248"),
            known_file("tgt-train.txt.gz", 567881, "31b69fac5e44e57420df1ce8b3d287219dd6826ec1963d69ecf4fb14db696379"),
            known_file("src-val.txt.gz", 146146, "1cc89a2df2b7346e185dfe35a773e98f07ab52a033444b654024deb8aa6b1139"),
            known_file("tgt-val.txt.gz", 172228, "012e7e7fc2394337632c1e0d29c337edc7056cba79258dea8387ffe4aab5184e"),
            known_file("src-test.txt.gz", 130335, "59a543a690d69b867f7a7ee431e3b3c5e4f558b0bc533a25a0d25c579f7f95da"),
            known_file("tgt-test.txt.gz", 144010, "2aeaa5a6ebe11ce0b90554671d67c15a9cb8f9b0285a973a25659f1e8cb4e7f7"),
        ),
        licence="WMT sources, for research; unclear",
        home="https://github.com/OpenNMT/OpenNMT",
        bring="the six files of its data folder, each packed with `gzip -n -9`",
    ),
    "evbnews-en-vi": DataSet(
        name="evbnews-en-vi",
        what="45,308 English-Vietnamese pairs from 1,000 news documents, tokenized: the stand-in for talks",
        files=(
            known_file("evbnews.en.gz", 1712141, "22131e4eeeb6d54a992384f626f7918b5e391deb6c2fd3aea5ed06b236f88848"),
            known_file("evbnews.vi.gz", 1950860, "99ee809c981e085292ba3ed55e8655a4ce36dee9e63962bbf87b238314523689"),
            known_file("evbnews.ids.gz", 104229, "0b797cb347dc3933fd3b1d27ddaff2a35ab64bc884efe31121961a78cbaa9170"),
        ),
        licence="none stated, academic use; unclear",
        home="https://github.com/qhungngo/EVBCorpus",
        bring="the three files are derived from the publisher's SGML, and only in copies of this project's data folder",
    ),
    "multi30k": DataSet(
        name="multi30k",
        what="31,014 German-English image captions, raw, with test_2016_flickr",
        files=(
            known_file(
                "train.de.gz",
                637044,
                "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
                _MULTI30K,
            ),
            known_file(
                "train.en.gz",
                568929,
                "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
                _MULTI30K,
            ),
            known_file(
                "val.de.gz",
                24681,
                "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
                _MULTI30K,
            ),
            known_file(
                "val.en.gz",
                21650,
                "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
                _MULTI30K,
            ),
            known_file(
                "test_2016_flickr.de.gz",
                22890,
                "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
                _MULTI30K,
            ),
            known_file(
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
