"""The one base class of every exception that normscope raises on purpose."""


class NormscopeError(Exception):
    """Base class of the package's own exceptions; each of them also keeps its standard base, such as ``ValueError``.

    Example:
        >>> import normscope
        >>> try:
        ...     normscope.find_task("digit")
        ... except normscope.NormscopeError as error:
        ...     print(type(error).__name__, isinstance(error, KeyError))
        UnknownName True
    """
