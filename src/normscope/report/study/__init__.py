"""The page of a study: tables, figures and their assembly."""

from normscope.report.study.folder import RunHistory, StudyRecord, read_study
from normscope.report.study.page import write_report

__all__ = [
    "RunHistory",
    "StudyRecord",
    "read_study",
    "write_report",
]
