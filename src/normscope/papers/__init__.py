"""Published papers as data, the studies that try them, and what our runs say of every cell."""

from normscope.papers.choice import Request, choose, missing
from normscope.papers.initial_gradients import Setting
from normscope.papers.library import PAPERS
from normscope.papers.reproduction import reproduce, study_folder

__all__ = ["PAPERS", "Request", "Setting", "choose", "missing", "reproduce", "study_folder"]
