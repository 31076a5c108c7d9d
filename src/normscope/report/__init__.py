"""The report: reads a study folder and writes one self-contained HTML page; needs no torch."""

from normscope.report.study.page import write_report

__all__ = [
    "write_report",
]
