"""The one base class of every exception that normscope raises on purpose."""


class NormscopeError(Exception):
    """Base class of every exception that normscope raises on purpose."""
