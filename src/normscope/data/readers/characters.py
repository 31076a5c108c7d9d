"""Running text as bytes: enwik8, an excerpt of a later Wikipedia, and tinyshakespeare."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from normscope.arguments import check_arguments
from normscope.data.download import Progress
from normscope.data.readers.files import open_unpacked, open_zip_member
from normscope.data.registry import SETS
from normscope.data.store import found_hashes, locate

SIZES = {"enwik8": 100_000_000, "enwiki-xml-small": 6_089_746, "text-small": 1_115_394}
"""Uncompressed size of each text in bytes; no more is ever decompressed."""

ENWIK8_MD5 = "a1fa5ffddb56f4953e226637dabbb36a"
"""Digest of the uncompressed text, from its home page."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ByteSplits:
    """A text in three consecutive parts that share memory."""

    train: np.ndarray
    """``[N]`` uint8."""
    valid: np.ndarray
    test: np.ndarray
    hashes: dict[str, str]
    """sha256 of every source file by name, with the prefix ``unverified:`` if it is not published."""


@check_arguments
def load_bytes(name: str, *, progress: Progress | None = None) -> ByteSplits:
    """Read a text: the first 90 % of its bytes train, the next 5 % validate, the last 5 % test.

    For enwik8 these are the usual 90, 5 and 5 million. A cut may split a multi-byte character. The text is decompressed
    into a single array, of 100 MB for enwik8, with an overhead of a few megabytes.

    Raises ``DataNotFound`` or ``DataDamaged`` if the file is not available. The compressed enwik8 has no published
    sha256, so ``DataUnverified`` warns of it; its content is compared with the published md5.

    Source: Mahoney (2011), "Large text compression benchmark", for enwik8.

    Args:
        name: ``enwik8``, ``enwiki-xml-small`` or ``text-small``.
        progress: Callback for the progress of a download.

    Raises:
        ValueError: If the name is unknown, or the file contains another text.
    """
    if name not in SIZES:
        raise ValueError(f"no text {name!r}, expected one of {', '.join(SIZES)}")
    dataset = SETS[name]
    paths = locate(dataset, progress=progress)
    (path,) = paths.values()
    size = SIZES[name]
    text = read_zipped(path, "enwik8", size, md5=ENWIK8_MD5) if name == "enwik8" else read_packed(path, size)
    first, second = size * 90 // 100, size * 95 // 100
    return ByteSplits(
        train=text[:first],
        valid=text[first:second],
        test=text[second:],
        hashes=found_hashes(dataset, paths),
    )


def read_packed(path: Path, size: int) -> np.ndarray:
    """Read a plain, ``.gz`` or ``.bz2`` file of known uncompressed size.

    Raises ``ValueError`` if the size differs (at most one further byte is decompressed), or the file is damaged.

    Args:
        path: The file.
        size: Number of uncompressed bytes.

    Returns:
        ``[size]`` uint8.
    """
    with open_unpacked(path) as stream:
        return _fill(stream, size, path)


def read_zipped(path: Path, member: str, size: int, *, md5: str) -> np.ndarray:
    """Read a zip file with a single member of known uncompressed size.

    Args:
        path: The archive.
        member: Name of its only member.
        size: Number of uncompressed bytes.
        md5: Digest of the uncompressed bytes, in lower-case hexadecimal.

    Returns:
        ``[size]`` uint8.

    Raises:
        ValueError: If the size or the digest differs, or as for ``open_zip_member``.
    """
    with open_zip_member(path, member) as stream:
        text = _fill(stream, size, path)
    found = hashlib.md5(text.data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path}: {member} has md5 {found}, expected {md5}")
    return text


def _fill(stream: IO[bytes], size: int, path: Path) -> np.ndarray:
    """Read a stream to its end into an array of the expected size.

    Raises:
        ValueError: If the stream is shorter or longer.
    """
    text = np.empty(size, dtype=np.uint8)
    done = 0
    while chunk := stream.read(min(_CHUNK, size - done)):
        text[done : done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
        done += len(chunk)
    # Reading one more byte detects a longer stream, and makes the decompressor verify its checksum.
    if done < size:
        raise ValueError(f"{path} unpacks to {done} bytes, expected {size}")
    if stream.read(1):
        raise ValueError(f"{path} unpacks to more than the expected {size} bytes")
    return text
