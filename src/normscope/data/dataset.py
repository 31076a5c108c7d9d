"""What is known of a data set before it is here: its files, their hashes, where they come from and on what terms."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One original file."""

    name: str
    sha256: str | None
    """Lower-case hexadecimal digest of the file as it is fetched, still packed; None where nobody here has seen the
    file or where each user has another one. Such a file is used with a warning that names the digest found."""
    bytes: int | None = None
    """Its size; None where it is unknown."""
    urls: tuple[str, ...] = ()
    """Mirrors, tried in this order; none where the file comes inside a package or from the user."""
    other_names: tuple[str, ...] = ()
    """What the user may also call it."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published data set."""

    name: str
    """Key in ``SETS``."""
    what: str
    files: tuple[DataFile, ...]
    licence: str
    home: str
    folder: str = ""
    """Its folder below ``$NORMSCOPE_DATA`` and below the cache; empty where that is the name."""
    bring: str = ""
    """How to come by the files that have no address; one sentence."""
    package: str | None = None
    """The Python package that ships the files; None where they are fetched."""
    folder_in_package: str = ""

    @property
    def place(self) -> str:
        """Its folder below a root, with slashes."""
        return self.folder or self.name

    @property
    def bytes(self) -> int:
        """Size of all files whose size is known, packed."""
        return sum(file.bytes or 0 for file in self.files)

    @property
    def hashes(self) -> dict[str, str]:
        """Expected sha256 of every file that has one, by name; ``files.found_hashes`` also has the others."""
        return {file.name: file.sha256 for file in self.files if file.sha256 is not None}

    @property
    def verified(self) -> bool:
        """Whether every file's sha256 is known beforehand."""
        return all(file.sha256 is not None for file in self.files)
