"""Pictures of a run as SVG elements that need no other file: images with boxes, and pen strokes."""

import base64
import struct
import zlib
from html import escape

import numpy as np

from normscope.report.drawing.palette import DARK, ArmStyle
from normscope.report.drawing.svg import clean
from normscope.results.pictures import Picture

_GAP = 2
"""Pixels between images."""
_STROKES_WIDTH, _LONGEST_ROW = 720, 12


def draw_picture(picture: Picture, style: ArmStyle, *, name: str) -> str:
    """Draw a picture of a run as an ``<svg role="img">`` element.

    Args:
        picture: The picture; its caption becomes the title.
        style: Style of the arm: boxes have its colour.
        name: Prefix of ids, unique in the page.
    """
    content, width, height, scale, words = (_images if picture.kind == "images" else _strokes)(picture, style)
    title = escape(clean(picture.caption, 400))
    size = f'width="{round(width * scale)}" height="{round(height * scale)}"'
    return (
        f'<svg viewBox="0 0 {width} {height}" {size} role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{title}</title><desc id="{name}-words">{words}</desc>{content}</svg>'
    )


def _images(picture: Picture, style: ArmStyle) -> tuple[str, int, int, float, str]:
    rows, columns, height, width = picture.array.shape
    down, across = height + _GAP, width + _GAP
    # Gray and opacity: the page shows through the gaps, in the light and in the dark.
    canvas = np.zeros((rows, down, columns, across, 2), np.uint8)
    canvas[:, :height, :, :width] = np.stack([picture.array, np.full_like(picture.array, 255)], -1).transpose(
        0, 2, 1, 3, 4
    )
    whole = canvas.reshape(rows * down, columns * across, 2)[:-_GAP, :-_GAP]
    address = f"data:image/png;base64,{base64.b64encode(_png(whole)).decode()}"
    high, wide = whole.shape[:2]
    content = f'<image href="{address}" width="{wide}" height="{high}" style="image-rendering:pixelated"/>'
    if picture.boxes is not None:
        content += "".join(
            _boxes(picture.boxes[row, column], column * across, row * down, width, height, style)
            for row in range(rows)
            for column in range(columns)
        )
    return content, wide, high, min(2.0, 720 / wide), f"{rows} rows of {columns} images, {height} x {width} pixels."


def _boxes(boxes: np.ndarray, left: int, top: int, width: int, height: int, style: ArmStyle) -> str:
    """Draw the boxes of one image, cut at its edges."""
    # Images are dark on light pages, too.
    colour = DARK["accent" if style.token == "ink" else style.token]
    drawn = "".join(
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{across:.1f}" height="{down:.1f}"/>'
        for x, y, across, down in boxes[np.isfinite(boxes).all(-1)].clip(-9999, 9999).tolist()
    )
    # An inner svg cuts what is outside of it.
    return drawn and (
        f'<svg x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="{colour}">{drawn}</svg>'
    )


def _png(pixels: np.ndarray) -> bytes:
    """Write gray levels with opacity, ``[H, W, 2]`` uint8, as PNG (ISO/IEC 15948, colour type 4)."""
    high, wide = pixels.shape[:2]
    # Each row begins with its filter: 0, none.
    rows = np.concatenate([np.zeros((high, 1), np.uint8), pixels.reshape(high, -1)], 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", wide, high, 8, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _strokes(picture: Picture, style: ArmStyle) -> tuple[str, int, int, float, str]:
    points = [drawing[~np.isnan(drawing).any(-1)].astype(np.float64) for drawing in picture.array]
    paths = [np.cumsum(drawing[:, :2], 0) for drawing in points]
    spans = np.array([np.ptp(path, 0) if len(path) else (0.0, 0.0) for path in paths])
    size = np.maximum(spans.max(0), 1e-9)
    count = len(paths)
    # Cells as wide as the widest drawing, in about a square; long lines of writing one below the other.
    columns = int(np.clip(round((count * 2 * size[1] / size[0]) ** 0.5), 1, min(count, _LONGEST_ROW)))
    across = _STROKES_WIDTH / columns
    scale = min((across - 12) / size[0], 160 / size[1])
    down = max(size[1] * scale, 8.0) + 12
    content = []
    for place, (drawing, path) in enumerate(zip(points, paths, strict=True)):
        if not len(path):
            continue
        corner = np.array([place % columns * across + 6, place // columns * down + 6])
        moved = (path - path.min(0)) * scale + corner
        # A point after a lifted pen begins a new line.
        begins = np.concatenate([[True], drawing[:-1, 2] > 0.5])
        content += [f"{'M' if new else 'L'}{x:.1f} {y:.1f}" for new, (x, y) in zip(begins, moved.tolist(), strict=True)]
    rows = -(-count // columns)
    drawn = f'<path d="{"".join(content)}" fill="none" stroke="var(--{style.token})" stroke-width="1.5"'
    return (
        f'{drawn} stroke-linecap="round" stroke-linejoin="round"/>',
        _STROKES_WIDTH,
        round(rows * down),
        1.0,
        f"{count} drawings in {rows} rows.",
    )
