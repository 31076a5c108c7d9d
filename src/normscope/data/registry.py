"""All published data sets, joined from :mod:`normscope.data.sets`."""

from normscope.data.download import DataSet
from normscope.data.sets.captions import CAPTION_SETS
from normscope.data.sets.cifar import CIFAR_SETS
from normscope.data.sets.images import IMAGE_SETS
from normscope.data.sets.novels import NOVEL_SETS
from normscope.data.sets.parallel import PARALLEL_SETS
from normscope.data.sets.skip_thoughts import SKIP_THOUGHTS_SETS
from normscope.data.sets.strokes import STROKE_SETS
from normscope.data.sets.texts import TEXT_SETS

SETS: dict[str, DataSet] = {
    **IMAGE_SETS,
    **CIFAR_SETS,
    **TEXT_SETS,
    **NOVEL_SETS,
    **PARALLEL_SETS,
    **CAPTION_SETS,
    **SKIP_THOUGHTS_SETS,
    **STROKE_SETS,
}
"""All data sets by name, in the order of tables."""
