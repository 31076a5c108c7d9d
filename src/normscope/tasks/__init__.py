"""Tasks: a data set with its network, loss, metric and recipe in a single object; one file or folder per family."""

from normscope.tasks.batching import BatchOrder
from normscope.tasks.custom.loader import UserFile, UserFileChanged
from normscope.tasks.custom.sandbox import UserCodeError
from normscope.tasks.custom.task import CustomTask
from normscope.tasks.custom.trial import Trial
from normscope.tasks.images import ImageClassification
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import BaseTask, Metric, Part, Published, Split, Task

__all__ = [
    "BaseTask",
    "BatchOrder",
    "CustomTask",
    "ImageClassification",
    "Metric",
    "Part",
    "Published",
    "Recipe",
    "Split",
    "Task",
    "Trial",
    "UserCodeError",
    "UserFile",
    "UserFileChanged",
]
