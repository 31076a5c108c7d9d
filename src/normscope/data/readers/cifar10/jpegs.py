"""A part of CIFAR-10 as JPEG files in folders by class."""

import io
import re
from pathlib import Path

import numpy as np

from normscope.data.readers.cifar10.records import CLASSES, SIDE, hold_out
from normscope.data.readers.files import read_tar
from normscope.data.readers.images import Arrays, ArraySplits
from normscope.data.registry import SETS
from normscope.data.store import locate


def load_cifar10_part() -> ArraySplits:
    """Read a part of CIFAR-10 that was encoded as JPEG: images ``[N, 3, 32, 32]`` uint8, labels ``[N]`` int64.

    These are the first 2,500 training and 500 test images of every class, with the losses of the encoding: not the
    original bytes. The last 250 training images of every class are held out for validation. Raises ``DataNotFound`` or
    ``DataDamaged`` if the archive is not available.
    """
    dataset = SETS["cifar10-jpeg"]
    train, test = read_jpegs(locate(dataset)["cifar10_jpeg_25000_5000.tar.gz"])
    return hold_out(train, test, dataset.hashes)


_NAME = re.compile(rf"(?:\./)?(train|test)/({'|'.join(CLASSES)})/([0-9]{{1,9}})\.jpg", flags=re.ASCII)


def read_jpegs(path: Path) -> tuple[Arrays, Arrays]:
    """Read an archive of ``train/CLASS/NUMBER.jpg`` and ``test/CLASS/NUMBER.jpg``, as 32 x 32 RGB images.

    Images are ordered by number and then by class, so that the last ones are of all classes equally.

    Args:
        path: A tar file, compressed or not.

    Returns:
        Training and test images, ``[N, 3, 32, 32]`` uint8.

    Raises:
        ValueError: If the archive is damaged or hostile, a member has another name or is not a JPEG of this size, or a
            class has another number of images than the rest of its part; the message contains archive and file.
    """
    numbered: dict[str, dict[tuple[int, int], np.ndarray]] = {"train": {}, "test": {}}
    for name, content in read_tar(path, most_members=80_000, most_bytes=1 << 16):
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{path} has the member {name!r}, expected train/CLASS/NUMBER.jpg or test/…, as in CIFAR-10"
            )
        key = int(match[3]), CLASSES.index(match[2])
        if key in numbered[match[1]]:
            raise ValueError(f"{path} has two images number {key[0]} of {match[1]}/{match[2]}")
        numbered[match[1]][key] = decode_jpeg(content, f"{path}:{name}")
    parts = []
    for part, images in numbered.items():
        keys = sorted(images)
        y = np.array([label for _, label in keys], dtype=np.int64)
        counts = np.bincount(y, minlength=len(CLASSES))
        if not counts.all() or len(set(counts.tolist())) > 1:
            each = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, counts, strict=True))
            raise ValueError(f"{path} should have as many images of every class in {part}, it has {each}")
        parts.append(Arrays(x=np.stack([images[key] for key in keys]), y=y))
    return parts[0], parts[1]


def decode_jpeg(content: bytes, where: str) -> np.ndarray:
    """Decode a colour JPEG of 32 x 32 pixels.

    Args:
        content: Bytes of the file.
        where: Name of the file in error messages.

    Returns:
        ``[3, 32, 32]`` uint8.

    Raises:
        ValueError: If it is not a whole JPEG, or has another size or number of channels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            # The size is in the header: nothing larger is ever decoded.
            if image.size != (SIDE, SIDE) or image.mode != "RGB":
                wide, high = image.size
                wanted = f"{SIDE} x {SIDE} of mode RGB"
                raise ValueError(f"{where} is {wide} x {high} pixels of mode {image.mode}, expected {wanted}")
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is not a whole JPEG file: {error}") from error
