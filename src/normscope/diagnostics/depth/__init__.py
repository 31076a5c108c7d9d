"""Activations and gradients by depth: stacks of layers, their profile, and how it scales with depth or width."""

from normscope.diagnostics.depth.coordinate_check import CoordinateCheck, coordinate_check
from normscope.diagnostics.depth.profile import LayerDepth, StackDepth, depth_profile

__all__ = [
    "CoordinateCheck",
    "LayerDepth",
    "StackDepth",
    "coordinate_check",
    "depth_profile",
]
