"""Raw sets: fetch once, check the hash, read the original files. Imports nothing of ours and no torch."""

from normscope.data.arrays import Arrays, ArraySplits
from normscope.data.digits import load_digits
from normscope.data.download import Progress
from normscope.data.files import DataDamaged, DataNotFound, State, cache_folder, locate, state
from normscope.data.inventory import fetch, table, verify
from normscope.data.mnist import load_mnist
from normscope.data.sets import SETS, DataFile, DataSet

__all__ = [
    "SETS",
    "ArraySplits",
    "Arrays",
    "DataDamaged",
    "DataFile",
    "DataNotFound",
    "DataSet",
    "Progress",
    "State",
    "cache_folder",
    "fetch",
    "load_digits",
    "load_mnist",
    "locate",
    "state",
    "table",
    "verify",
]
