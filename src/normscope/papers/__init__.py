"""Published results as data, the studies that reproduce them, and the verdict on every published cell."""

from normscope.papers.reproduction import reproduce, study_folder
from normscope.papers.request import PAPERS, ReproductionRequest, choose, missing
from normscope.papers.xiong2020.initial_gradients import Setting

__all__ = [
    "PAPERS",
    "ReproductionRequest",
    "Setting",
    "choose",
    "missing",
    "reproduce",
    "study_folder",
]
