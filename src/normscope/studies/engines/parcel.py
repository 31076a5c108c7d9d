"""The files of a run as one value, for machines that share no folder; a parcel that arrives is read as a stranger's."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from normscope.results.store import RunFolder
from normscope.tasks import UserFile

LIMITS = {
    "run.json": 16 << 20,
    "metrics.jsonl": 1 << 30,
    "checkpoint.pt": 32 << 30,
    "examples.npy": 4 << 30,
    "pictures.npz": 16 << 20,
    "error.txt": 16 << 20,
    "result.json": 16 << 20,
}
"""The files that travel, with the largest size of each in bytes, in the order in which they are written."""


def pack(folder: Path) -> dict[str, bytes]:
    """Read the files of a run, the checkpoint first: metrics appended after it are cut off when the run continues.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is larger than its limit.
    """
    names = sorted(LIMITS, key=lambda name: name != "checkpoint.pt")
    paths = {name: folder / name for name in names if (folder / name).is_file()}
    return check_parcel({name: path.read_bytes() for name, path in paths.items()})


def check_parcel(parcel: object) -> dict[str, bytes]:
    """Check that a parcel holds nothing but known files within their limits; return it in the order of writing.

    Raises:
        ValueError: If it is not a dictionary of bytes, has an unknown name, or a file that is too large.
    """
    if not isinstance(parcel, Mapping):
        raise ValueError(f"expected the files of a run by name, got a {type(parcel).__name__}")
    for name, content in parcel.items():
        if name not in LIMITS:
            raise ValueError(f"{name!r:.200} is not a file of a run; those that travel are {', '.join(LIMITS)}")
        if not isinstance(content, bytes):
            raise ValueError(f"{name} must be bytes, got a {type(content).__name__}")
        if len(content) > LIMITS[name]:
            raise ValueError(f"{name} has {len(content):,} bytes; the limit is {LIMITS[name]:,}")
    return {name: parcel[name] for name in LIMITS if name in parcel}


def check_content(files: Mapping[str, bytes], identity: str) -> None:
    """Check what the files of a run contain, as readers of the study will.

    Raises:
        ValueError: If a file is damaged, or they describe another run.
    """
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            if file not in ("checkpoint.pt", "pictures.npz"):
                (Path(name) / file).write_bytes(content)
        folder = RunFolder(Path(name))
        if (found := folder.read_description()["id"]) != identity:
            raise ValueError(f"run.json describes the run {found!r}, not {identity!r}")
        folder.read_metrics()
        if "result.json" in files:
            folder.read_result()
            folder.read_examples()


def user_texts(location: str) -> dict[str, bytes]:
    """Return the user's file and what it imports from beside it, by path relative to its folder."""
    if not location:
        return {}
    file = UserFile.named(location)
    return {os.path.relpath(path, file.path.parent): text for path, text in file.texts().items()}
