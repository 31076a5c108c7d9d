"""The page of a diagnosis: text, figures and their assembly."""

from normscope.report.diagnosis.page import render, write_diagnosis

__all__ = [
    "render",
    "write_diagnosis",
]
