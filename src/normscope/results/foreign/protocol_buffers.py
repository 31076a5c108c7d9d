"""The wire format of protocol buffers, in which W&B and TensorBoard write what was logged."""

import struct
from collections.abc import Iterator
from typing import Any

from normscope.results.foreign.table import TableUnusable


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and content of the fields of a protocol buffer: integers, eight or four bytes, or bytes.

    Raises:
        TableUnusable: If the data are not one.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            content, at = _varint(data, at)
            yield tag >> 3, content
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind, len(data))
        part = data[at : at + size]
        if len(part) < size:
            raise TableUnusable(f"a record of the file is damaged: a field of {size} bytes ends after {len(part)}")
        at += size
        yield tag >> 3, part if kind == 2 else struct.unpack("<d" if kind == 1 else "<f", part)[0]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read an integer of one to ten bytes, and return it with the position behind it.

    Raises:
        TableUnusable: If it is longer, or cut short.
    """
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise TableUnusable("a record of the file is damaged: an integer does not end")
