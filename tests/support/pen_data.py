"""Invented drawings in the formats of the published ones: arrays of points, and a miniature of IAM-OnDB."""

import gzip
import io
import tarfile

import numpy as np

DRAWINGS = {"train": 400, "valid": 60, "test": 50}
"""Drawings of each part of Omniglot and of KanjiVG."""

FORMS = {
    "trainset.txt": ("a01-000u", "a01-003", "b02-041x"),
    "testset_t.txt": ("c03-007z",),
    "testset_v.txt": ("d04-058a",),
    "testset_f.txt": ("e05-009w", "f06-010"),
}
"""Forms of IAM-OnDB by list; each has three lines."""

TEXTS = ("The cat, 7 of 9", "sat on a mat.", "It isn't here")


def arrays(seed: int, *, zeros: bool) -> dict[str, np.ndarray]:
    """Draw strokes that turn slowly, with lifts between them; the last training drawing is the first test drawing."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    first: np.ndarray | None = None
    for part in ("test", "valid", "train"):
        drawings = []
        for _ in range(DRAWINGS[part]):
            length = int(rng.integers(3, 25))
            angles = rng.uniform(0, 6.28) + np.cumsum(rng.normal(0, 0.4, length))
            steps = np.round(40 * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.int16)
            pen = (rng.random(length) < 0.15).astype(np.int16)
            pen[-1] = 1
            drawing = np.concatenate([steps, pen[:, None]], 1)
            drawings.append(np.concatenate([np.zeros((1, 3), np.int16), drawing]) if zeros else drawing)
        first = drawings[0] if first is None else first
        if part == "train":
            drawings[-1] = first
        found[f"{part}_points"] = np.concatenate(drawings).astype(np.int16)
        found[f"{part}_lengths"] = np.array([len(one) for one in drawings], np.int32)
    return found


def packed(content: dict[str, np.ndarray]) -> bytes:
    """Write arrays as a ``.npz`` file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **content)
    return stream.getvalue()


def line_xml(text: str, rng: np.random.Generator) -> bytes:
    """Write a line: a stroke per character, of five points."""
    strokes = []
    for place, character in enumerate(text):
        shape = np.random.default_rng(ord(character)).integers(-30, 30, (5, 2))
        points = shape + np.array([1000 + 60 * place, 2000]) + rng.integers(-2, 3, (5, 2))
        rows = "".join(f'      <Point x="{x}" y="{y}" time="{place}.{n}"/>\n' for n, (x, y) in enumerate(points))
        strokes.append(
            f'    <Stroke colour="black" start_time="{place}.0" end_time="{place}.4">\n{rows}    </Stroke>\n'
        )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<WhiteboardCaptureSession>\n  <WhiteboardDescription>\n'
        '    <SensorLocation corner="top_left"/>\n    <DiagonallyOppositeCoords x="6512" y="1376"/>\n'
        f"  </WhiteboardDescription>\n  <StrokeSet>\n{''.join(strokes)}  </StrokeSet>\n</WhiteboardCaptureSession>\n"
    ).encode("latin-1")


def tarred(members: dict[str, bytes]) -> bytes:
    """Write files as a compressed tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 1, mtime=0)


def iam_ondb() -> dict[str, bytes]:
    """Write the six files of IAM-OnDB; one form is in no list, and one line more is written than transcribed."""
    rng = np.random.default_rng(5)
    lines, texts = {}, {}
    for form in (*(form for forms in FORMS.values() for form in forms), "g06-000a"):
        folder = f"{form[:3]}/{form[:7]}"
        for number, text in enumerate(TEXTS, 1):
            lines[f"lineStrokes/{folder}/{form}-{number:02}.xml"] = line_xml(text, rng)
        texts[f"ascii/{folder}/{form}.txt"] = ("OCR:\n\nThc cat\n\n\nCSR:\n\n" + "\n".join(TEXTS) + "\n").encode()
    lines["lineStrokes/a01/a01-000/a01-000u-04.xml"] = line_xml("more", rng)
    return {
        "lineStrokes-all.tar.gz": tarred(lines),
        "ascii-all.tar.gz": tarred(texts),
        **{name: "".join(f"{form}\n" for form in forms).encode() for name, forms in FORMS.items()},
    }


def files() -> dict[str, bytes]:
    """Return the content of every file by its place."""
    return {
        "strokes/omniglot_stroke3_flat.npz": packed(arrays(1, zeros=True)),
        "strokes/short_kanji_stroke3_flat.npz": packed(arrays(2, zeros=False)),
        **{f"iam-ondb/{name}": content for name, content in iam_ondb().items()},
    }
