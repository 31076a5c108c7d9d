"""Raw sets: fetch once, check the hash, read the original files. Imports nothing of ours and no torch."""

from normscope.data.arrays import Arrays, ArraySplits
from normscope.data.characters import ByteSplits, load_bytes
from normscope.data.conllu import ParsedSentence, TreeCount, read_conllu
from normscope.data.corpora import Pairs, ParallelSplits, load_parallel
from normscope.data.dataset import DataFile, DataSet
from normscope.data.digits import load_digits
from normscope.data.download import Progress
from normscope.data.files import (
    DataDamaged,
    DataNotFound,
    DataUnverified,
    State,
    cache_folder,
    found_hashes,
    locate,
    state,
)
from normscope.data.inventory import fetch, table, verify
from normscope.data.labelled_text import LabelledText, LabelledTextSplits
from normscope.data.lines import read_lines
from normscope.data.mnist import load_mnist
from normscope.data.parallel import PairCount, PairFiles, read_pairs, read_tar_pairs
from normscope.data.rt import load_rt
from normscope.data.sets import SETS
from normscope.data.sst import SentimentTree, load_sst, read_trees
from normscope.data.treebanks import Treebank, load_ewt, load_ptb

__all__ = [
    "SETS",
    "ArraySplits",
    "Arrays",
    "ByteSplits",
    "DataDamaged",
    "DataFile",
    "DataNotFound",
    "DataSet",
    "DataUnverified",
    "LabelledText",
    "LabelledTextSplits",
    "PairCount",
    "PairFiles",
    "Pairs",
    "ParallelSplits",
    "ParsedSentence",
    "Progress",
    "SentimentTree",
    "State",
    "TreeCount",
    "Treebank",
    "cache_folder",
    "fetch",
    "found_hashes",
    "load_bytes",
    "load_digits",
    "load_ewt",
    "load_mnist",
    "load_parallel",
    "load_ptb",
    "load_rt",
    "load_sst",
    "locate",
    "read_conllu",
    "read_lines",
    "read_pairs",
    "read_tar_pairs",
    "read_trees",
    "state",
    "table",
    "verify",
]
