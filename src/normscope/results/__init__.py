"""Numbers on disk and what they mean: store, statistics, verdict, summary; numpy and scipy, no torch."""

from normscope.results.per_arm import ArmSummary, RunSummary
from normscope.results.summary import Summary, summarize

__all__ = [
    "ArmSummary",
    "RunSummary",
    "Summary",
    "summarize",
]
