"""Novels in the public domain, and questions on news."""

from normscope.data.download import DataFile, DataSet

_BOOKS = (
    ("98-a-tale-of-two-cities.txt.gz", 299695, "05e98f4f6cf58a1a3b824a5e6b225666bcf3642922875fb9f86b29eca47a80a0"),
    ("145-middlemarch.txt.gz", 698732, "b029a516f11736d1b9ded0a7c668d138584bd21ae7597b44e3768706625580dd"),
    ("345-dracula.txt.gz", 335298, "be4bd0d14523b2c9357a188fce687e882f2dc30e008f95292654d497e4e204a3"),
    ("514-little-women.txt.gz", 409101, "947e0e44fbd99136ec381401686f6abaa5e0f1bff87dac688d5ec6df9d91efb2"),
    ("1342-pride-and-prejudice.txt.gz", 258586, "0dafc3cafe50430f848744d55a3a396b0373bb251faa94cd189161461d407c84"),
    ("1400-great-expectations.txt.gz", 392013, "3b8109fb8743341281963b72ccaf152e689abe9e364c2339cb0550cbff0d4000"),
    (
        "1661-the-adventures-of-sherlock-holmes.txt.gz",
        225965,
        "178e409c83aa9d2484391273a27a3b92a05a7266047c239aa17874e21ef74a78",
    ),
    ("2701-moby-dick.txt.gz", 509566, "46f147b0325c75a4cdb4352c0fa813a9a76af2a65b465ba636a8e2b758c65f6d"),
    ("14263-katrine.txt.gz", 142731, "819fc5417014957ab770daae80b24ccb461ed6e42ad57a2ff61c789708b59022"),
    (
        "15122-the-little-colonels-hero.txt.gz",
        131524,
        "bec7502b5d34ff0138eeee7f8cf1a09a6346e48f0c59f95b1f5a37f02004484a",
    ),
    ("16215-jack-sheppard.txt.gz", 359239, "d6fc9a88116ea63dc123252e9e739b913bd2ab3197437c18473d48ba0afa3aeb"),
)

NOVEL_SETS: dict[str, DataSet] = {
    "gutenberg-novels": DataSet(
        name="gutenberg-novels",
        what="eleven English novels of Project Gutenberg, 9,835,634 characters with header and licence",
        files=tuple(DataFile(name=name, bytes=size, sha256=sha256) for name, size, sha256 in _BOOKS),
        licence="public domain in the USA; Project Gutenberg's header says on what terms the files are passed on",
        home="https://www.gutenberg.org/",
        bring=(
            "the plain ASCII edition NUMBER.txt of each book in the GITenberg repository of its number, packed with "
            "`gzip -n -9`"
        ),
    ),
    "cnn-questions": DataSet(
        name="cnn-questions",
        what="CNN question files of Hermann et al. (2015): 380,298 to train, 3,924 to validate, 3,198 to test",
        # The home page serves the archive behind a form: there is no address to download it from.
        files=(DataFile(name="cnn.tgz", sha256=None),),
        licence="none stated; the articles are CNN's, research use; unclear",
        home="https://cs.nyu.edu/~kcho/DMQA/",
        bring='the archive "CNN, Questions" of that page, which unpacks to cnn/questions/{training,validation,test}',
    ),
}
"""Data sets of novels and of questions on news, by name."""
