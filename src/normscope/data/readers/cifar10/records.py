"""CIFAR-10 from the publisher's archive of raw bytes."""

from pathlib import Path

import numpy as np

from normscope.data.download import Progress
from normscope.data.readers.files import read_tar
from normscope.data.readers.images import Arrays, ArraySplits
from normscope.data.registry import SETS
from normscope.data.store import locate

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The ten classes in the order of their labels, which is that of the alphabet."""

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE * SIDE
"""Number of bytes of an image: its red plane row by row, then the green and the blue one."""

TENTH = 10
"""One in ten training images is held out for validation, and as many again for tuning."""

_BATCHES = {f"cifar-10-batches-bin/data_batch_{number}.bin": "train" for number in range(1, 6)}
_BATCHES["cifar-10-batches-bin/test_batch.bin"] = "test"
_META = "cifar-10-batches-bin/batches.meta.txt"
_OTHERS = {"cifar-10-batches-bin/readme.html"}


def load_cifar10(*, progress: Progress | None = None) -> ArraySplits:
    """Read CIFAR-10 from ``cifar-10-binary.tar.gz``: images ``[N, 3, 32, 32]`` uint8, labels ``[N]`` int64.

    The last tenth of the training images, which the publisher has shuffled, is held out for validation. The publisher's
    archive for Python holds the same bytes as pickles, which can run any code, and is not read. Raises ``DataNotFound``
    or ``DataDamaged`` if the archive is not available.

    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images.

    Args:
        progress: Callback for the progress of a download.
    """
    dataset = SETS["cifar10"]
    train, test = read_batches(locate(dataset, progress=progress)["cifar-10-binary.tar.gz"])
    return hold_out(train, test, dataset.hashes)


def hold_out(train: Arrays, test: Arrays, hashes: dict[str, str]) -> ArraySplits:
    """Return training images without their last tenth, which validates, and test images."""
    held = len(train) // TENTH
    cut = len(train) - held
    return ArraySplits(
        train=Arrays(x=train.x[:cut], y=train.y[:cut]),
        valid=Arrays(x=train.x[cut:], y=train.y[cut:]),
        test=test,
        held_for_tuning=held,
        hashes=hashes,
    )


def read_batches(path: Path) -> tuple[Arrays, Arrays]:
    """Read the publisher's archive: records of a label and 3,072 pixels, in six files.

    Args:
        path: ``cifar-10-binary.tar.gz``.

    Returns:
        Training and test images, ``[N, 3, 32, 32]`` uint8, in the order of the files.

    Raises:
        ValueError: If the archive is damaged or hostile, a file is missing or unknown, a file does not hold whole
            records, a label is above 9, or the names of the classes differ; the message contains archive and file.
    """
    found = dict(read_tar(path, most_members=20, most_bytes=1 << 25))
    if missing := sorted({*_BATCHES, _META} - found.keys()):
        raise ValueError(f"{path} has no {', '.join(missing)}; it has {', '.join(sorted(found)) or 'no files'}")
    if unknown := sorted(found.keys() - {*_BATCHES, _META, *_OTHERS}):
        raise ValueError(f"{path} has the members {', '.join(unknown)}, which CIFAR-10 has not")
    names = tuple(found[_META].decode("ascii", "replace").split())
    if names != CLASSES:
        raise ValueError(f"{path}:{_META} names the classes {', '.join(names)}, expected {', '.join(CLASSES)}")
    parts: dict[str, list[Arrays]] = {"train": [], "test": []}
    for name, part in _BATCHES.items():
        content = found[name]
        if not content or len(content) % (PIXELS + 1):
            raise ValueError(f"{path}:{name} has {len(content):,} bytes, expected records of {PIXELS + 1:,}")
        records = np.frombuffer(content, dtype=np.uint8).reshape(-1, PIXELS + 1)
        if (label := records[:, 0]).max() >= len(CLASSES):
            at = int(label.argmax())
            raise ValueError(f"{path}:{name}, record {at + 1}, has the label {label[at]}, expected 0 to 9")
        parts[part].append(Arrays(x=records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE), y=records[:, 0].astype(np.int64)))
    train, test = (
        Arrays(x=np.concatenate([one.x for one in batches]), y=np.concatenate([one.y for one in batches]))
        for batches in parts.values()
    )
    return train, test
