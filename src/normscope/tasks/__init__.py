"""Tasks: a data set with its network, loss, metric and recipe, as one object; one file a family."""

from normscope.tasks.image_classification import ImageClassification as ImageClassification
from normscope.tasks.order import BatchOrder as BatchOrder
from normscope.tasks.own import OwnTask as OwnTask
from normscope.tasks.own_code import OwnCodeError as OwnCodeError
from normscope.tasks.own_file import OwnFile as OwnFile
from normscope.tasks.own_file import OwnFileChanged as OwnFileChanged
from normscope.tasks.recipe import Recipe as Recipe
from normscope.tasks.task import Metric as Metric
from normscope.tasks.task import Published as Published
from normscope.tasks.task import Task as Task
from normscope.tasks.trial import Trial as Trial
