"""Ba, Kiros and Hinton (2016): layer normalization."""

from normscope.papers.ba2016.study import BA2016

__all__ = ["BA2016"]
