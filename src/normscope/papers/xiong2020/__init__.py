"""On Layer Normalization in the Transformer Architecture (Xiong et al., 2020)."""

from normscope.papers.xiong2020.initial_gradients import Setting
from normscope.papers.xiong2020.study import XIONG2020

__all__ = ["XIONG2020", "Setting"]
