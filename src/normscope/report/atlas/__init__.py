"""The atlas: one page of every comparison that a folder of studies holds."""

from normscope.report.atlas.comparisons import Atlas, Comparison, read_atlas
from normscope.report.atlas.page import write_atlas

__all__ = [
    "Atlas",
    "Comparison",
    "read_atlas",
    "write_atlas",
]
