"""Numbers on disk and what they mean: store, statistics, verdict, summary; numpy and scipy, no torch."""

from normscope.results.summary import ArmSummary, RunSummary, Summary, summarize

__all__ = ["ArmSummary", "RunSummary", "Summary", "summarize"]
