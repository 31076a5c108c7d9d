"""What every picture is drawn with: SVG, colours, curves, number formats."""
