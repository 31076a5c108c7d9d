"""Tasks: a data set with its network, loss, metric and recipe, as one object; one file a family."""

from normscope.tasks.batching import BatchOrder
from normscope.tasks.custom.loader import UserFile, UserFileChanged
from normscope.tasks.custom.sandbox import UserCodeError
from normscope.tasks.custom.task import CustomTask
from normscope.tasks.custom.trial import Trial
from normscope.tasks.images import ImageClassification
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Metric, Published, Task

__all__ = [
    "BatchOrder",
    "CustomTask",
    "ImageClassification",
    "Metric",
    "Published",
    "Recipe",
    "Task",
    "Trial",
    "UserCodeError",
    "UserFile",
    "UserFileChanged",
]
