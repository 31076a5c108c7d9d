"""Reports: self-contained HTML pages drawn from the files of a study or a diagnosis; needs no torch."""

from normscope.report.atlas.page import write_atlas
from normscope.report.diagnosis.page import write_diagnosis
from normscope.report.study.page import write_report

__all__ = [
    "write_atlas",
    "write_diagnosis",
    "write_report",
]
