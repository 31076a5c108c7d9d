"""Numbers on disk and what they mean: store, statistics, verdict, summary; numpy, and scipy on demand, no torch."""

from typing import TYPE_CHECKING, Any

from normscope.results.per_arm import ArmSummary, RunSummary
from normscope.results.store import RunFolder, StudyFolder
from normscope.results.summary import Summary, read_summary, summarize

if TYPE_CHECKING:
    from normscope.results.foreign import judge

__all__ = [
    "ArmSummary",
    "RunFolder",
    "RunSummary",
    "StudyFolder",
    "Summary",
    "judge",
    "read_summary",
    "summarize",
]


def __getattr__(name: str) -> Any:
    # The readers of other programs' tables are loaded when one is judged.
    if name != "judge":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from normscope.results.foreign import judge

    return judge
