"""Miniatures of CIFAR-10's own archive, and of the part that was encoded as JPEG."""

import io
from typing import Any

import numpy as np

from normscope.data.readers.cifar10.records import CLASSES

TRAIN, TEST = 60, 20
"""Images of every class."""


def drawn(seed: int, label: int, count: int) -> np.ndarray:
    """Draw images of a class, ``[count, 3, 32, 32]`` uint8: stripes of its own width and colour, and noise."""
    rng = np.random.default_rng([seed, label])
    stripes = (np.add.outer(np.arange(32), rng.integers(0, 32, count)).T // (1 + label % 5)) % 2
    colour = np.array([label % 2, label // 2 % 2, label // 5]) * 90 + 40
    images = colour[None, :, None, None] + 80 * stripes[:, None, :, None] * np.ones((1, 3, 1, 32))
    return np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray, **options: Any) -> bytes:
    """Encode an image ``[3, H, W]``."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", **options)
    return stream.getvalue()


def batch_members() -> dict[str, bytes]:
    """Give the members of the publisher's archive."""
    members = {"cifar-10-batches-bin/batches.meta.txt": "".join(f"{name}\n" for name in (*CLASSES, "")).encode()}
    for seed, (name, count) in enumerate(
        [*((f"data_batch_{number}", TRAIN // 5) for number in range(1, 6)), ("test_batch", TEST)]
    ):
        records = [
            np.concatenate([[label], image.reshape(-1)])
            for images in zip(*(drawn(seed, label, count) for label in range(10)), strict=True)
            for label, image in enumerate(images)
        ]
        members[f"cifar-10-batches-bin/{name}.bin"] = np.stack(records).astype(np.uint8).tobytes()
    return members


def jpeg_members(train: int = TRAIN, test: int = TEST) -> dict[str, bytes]:
    """Give the members of the archive of JPEG files, sorted by class."""
    return {
        f"{part}/{name}/{number:04}.jpg": as_jpeg(image)
        for seed, (part, count) in enumerate((("train", train), ("test", test)))
        for label, name in enumerate(CLASSES)
        for number, image in enumerate(drawn(10 + seed, label, count))
    }


def write_cifar(made: Any) -> None:
    """Write both archives."""
    made.tar("cifar10/cifar-10-binary.tar.gz", batch_members())
    made.tar("cifar10-jpeg/cifar10_jpeg_25000_5000.tar.gz", jpeg_members())
