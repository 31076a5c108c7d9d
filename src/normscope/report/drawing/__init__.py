"""Drawing for every page: SVG from matplotlib, colours, learning curves, numbers as text."""

from normscope.report.drawing.palette import ArmStyle, arm_styles
from normscope.report.drawing.svg import to_svg

__all__ = [
    "ArmStyle",
    "arm_styles",
    "to_svg",
]
