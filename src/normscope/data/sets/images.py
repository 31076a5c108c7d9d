"""Data sets of images."""

from normscope.data.download import DataFile, DataSet


def _mnist_file(name: str, size: int, sha256: str) -> DataFile:
    """Describe one of the four files; both mirrors serve the original bytes, unlike the home page."""
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
    return DataFile(name=name, sha256=sha256, bytes=size, urls=tuple(mirror + name for mirror in mirrors))


def _binarized(part: str, size: int, sha256: str) -> DataFile:
    """Describe one of the three parts."""
    return DataFile(name=f"binarized_mnist_{part}.mat", sha256=sha256, bytes=size)


IMAGE_SETS: dict[str, DataSet] = {
    "digits": DataSet(
        name="digits",
        what="1,797 handwritten digits, 8 x 8, 17 grey levels: the test half of UCI optdigits",
        files=(
            DataFile(
                name="digits.csv.gz",
                sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
                bytes=57523,
            ),
        ),
        licence="CC BY 4.0 (UCI Machine Learning Repository)",
        home="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        package="sklearn",
        folder_in_package="datasets/data",
    ),
    "mnist": DataSet(
        name="mnist",
        what="70,000 handwritten digits, 28 x 28, 256 grey levels, in the four original files",
        files=(
            _mnist_file(
                "train-images-idx3-ubyte.gz",
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            _mnist_file(
                "train-labels-idx1-ubyte.gz",
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            _mnist_file(
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            _mnist_file(
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        licence="none stated on the home page; often given as CC BY-SA 3.0; unclear",
        home="http://yann.lecun.com/exdb/mnist/",
    ),
    "binarized-mnist": DataSet(
        name="binarized-mnist",
        what="70,000 digits of MNIST, 28 x 28, each pixel drawn once as 0 or 1: the fixed binarization",
        files=(
            _binarized("train", 2852060, "79a0312c7389d855cfc97e3812de3998417c5829d8a51543b56a90a91252ae7e"),
            _binarized("valid", 571883, "7436afc856959075c7787025bb8a4ba2b520b9230ee39667c66aa7dd2819dd68"),
            _binarized("test", 490132, "5bc30222e1e7896cbccd1e1db6b28540cc1230f4d2d5473841a5f6cc54be8d38"),
        ),
        licence="as mnist",
        home="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        bring=(
            "the three files binarized_mnist_PART.amat of https://github.com/mingzhang-yin/ARM-gradient, which are "
            "MATLAB files, renamed to .mat"
        ),
    ),
}
"""Data sets of images, by name."""
