"""Tables of runs that other programs wrote: read, checked and judged like a study; needs no torch."""

from normscope.results.foreign.judgment import Judgment, judge, judge_all
from normscope.results.foreign.table import TableUnusable

__all__ = [
    "Judgment",
    "TableUnusable",
    "judge",
    "judge_all",
]
