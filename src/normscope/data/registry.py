"""All published data sets, joined from :mod:`normscope.data.sets`."""

from normscope.data.download import DataSet
from normscope.data.sets.images import IMAGE_SETS
from normscope.data.sets.parallel import PARALLEL_SETS
from normscope.data.sets.texts import TEXT_SETS

SETS: dict[str, DataSet] = {**IMAGE_SETS, **TEXT_SETS, **PARALLEL_SETS}
"""All data sets by name, in the order of tables."""
