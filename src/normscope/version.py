"""Which normscope this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("normscope")
except PackageNotFoundError:
    # A checkout on the path, not installed: `./run --here`.
    __version__ = "0+unknown"
