"""Judging: from a published cell and our runs to a verdict."""

from normscope.papers.judging.agreement import Judgement
from normscope.papers.judging.cell import Cell, Count, Paper, PaperArm, PaperStudy
from normscope.papers.judging.verdicts import judge_counts, judge_study

__all__ = [
    "Cell",
    "Count",
    "Judgement",
    "Paper",
    "PaperArm",
    "PaperStudy",
    "judge_counts",
    "judge_study",
]
