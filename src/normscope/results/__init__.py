"""Numbers on disk and what they mean: store, statistics, verdict, summary; numpy, and scipy on demand, no torch."""

from normscope.results.per_arm import ArmSummary, RunSummary
from normscope.results.store import RunFolder, StudyFolder
from normscope.results.summary import Summary, read_summary, summarize

__all__ = [
    "ArmSummary",
    "RunFolder",
    "RunSummary",
    "StudyFolder",
    "Summary",
    "read_summary",
    "summarize",
]
