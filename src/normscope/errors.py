"""The one base class of every exception that normscope raises on purpose."""


class NormscopeError(Exception):
    """Base class of the package's own exceptions; each of them also keeps its standard base, such as ``ValueError``."""
