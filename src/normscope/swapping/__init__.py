"""Norms in somebody else's model: found, replaced, reported, undone."""

from normscope.swapping.swap import swap

__all__ = ["swap"]
