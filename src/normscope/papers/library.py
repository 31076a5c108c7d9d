"""Every paper by its name; the order of tables."""

from normscope.papers.cell import Paper
from normscope.papers.xiong2020 import XIONG2020
from normscope.papers.xu2019 import XU2019

PAPERS: dict[str, Paper] = {"xu2019": XU2019, "xiong2020": XIONG2020}
