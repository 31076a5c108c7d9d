"""Understanding and Improving Layer Normalization (Xu et al., 2019)."""

from normscope.papers.xu2019.study import XU2019

__all__ = ["XU2019"]
