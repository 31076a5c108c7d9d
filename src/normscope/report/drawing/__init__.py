"""Drawing for every page: SVG from matplotlib, colors, learning curves, numbers as text."""
