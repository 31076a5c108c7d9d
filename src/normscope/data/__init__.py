"""Data sets: download, verification by hash, and readers of the original files. Needs no torch."""

from normscope.data.download import DataFile, DataSet, Progress
from normscope.data.readers.captions import (
    CaptionedImages,
    CaptionSplits,
    load_coco_captions,
    load_multi30k_captions,
    read_captions,
    read_features,
)
from normscope.data.readers.characters import ByteSplits, load_bytes
from normscope.data.readers.cifar10.jpegs import load_cifar10_part
from normscope.data.readers.cifar10.records import load_cifar10
from normscope.data.readers.files import read_lines
from normscope.data.readers.iam_ondb import load_iam_ondb
from normscope.data.readers.images import (
    Arrays,
    ArraySplits,
    BinaryImages,
    load_binarized_mnist,
    load_digits,
    load_mnist,
)
from normscope.data.readers.parallel import PairCount, PairFiles, read_pairs, read_tar_pairs
from normscope.data.readers.sentences import (
    LabelledText,
    LabelledTextSplits,
    SentimentTree,
    load_cr,
    load_mpqa,
    load_rt,
    load_sst,
    load_subj,
    read_trees,
)
from normscope.data.readers.skip_thoughts.book_corpus import BookSplits, load_book_corpus, load_novel_sentences
from normscope.data.readers.skip_thoughts.evaluation import RelatedPairs, RelatedPairSplits, load_sick, load_trec
from normscope.data.readers.strokes import Drawings, DrawingSplits, load_strokes
from normscope.data.readers.translation import Pairs, ParallelSplits, load_parallel
from normscope.data.readers.treebanks import (
    ParsedSentence,
    Treebank,
    TreeCount,
    load_ewt,
    load_ptb,
    load_ptb_sample,
    read_conllu,
)
from normscope.data.registry import SETS
from normscope.data.store import (
    DataDamaged,
    DataNotFound,
    DataState,
    DataUnverified,
    fetch,
    found_hashes,
    locate,
    state,
    table,
    verify,
)
from normscope.files import cache_folder

__all__ = [
    "SETS",
    "ArraySplits",
    "Arrays",
    "BinaryImages",
    "BookSplits",
    "ByteSplits",
    "CaptionSplits",
    "CaptionedImages",
    "DataDamaged",
    "DataFile",
    "DataNotFound",
    "DataSet",
    "DataState",
    "DataUnverified",
    "DrawingSplits",
    "Drawings",
    "LabelledText",
    "LabelledTextSplits",
    "PairCount",
    "PairFiles",
    "Pairs",
    "ParallelSplits",
    "ParsedSentence",
    "Progress",
    "RelatedPairSplits",
    "RelatedPairs",
    "SentimentTree",
    "TreeCount",
    "Treebank",
    "cache_folder",
    "fetch",
    "found_hashes",
    "load_binarized_mnist",
    "load_book_corpus",
    "load_bytes",
    "load_cifar10",
    "load_cifar10_part",
    "load_coco_captions",
    "load_cr",
    "load_digits",
    "load_ewt",
    "load_iam_ondb",
    "load_mnist",
    "load_mpqa",
    "load_multi30k_captions",
    "load_novel_sentences",
    "load_parallel",
    "load_ptb",
    "load_ptb_sample",
    "load_rt",
    "load_sick",
    "load_sst",
    "load_strokes",
    "load_subj",
    "load_trec",
    "locate",
    "read_captions",
    "read_conllu",
    "read_features",
    "read_lines",
    "read_pairs",
    "read_tar_pairs",
    "read_trees",
    "state",
    "table",
    "verify",
]
