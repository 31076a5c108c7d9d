"""Where a data set's files are: the user's own folder, the cache, or the network; every file is hashed at every use."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from normscope.data.download import Progress, download, sha256
from normscope.data.sets import DataFile, DataSet

FOLDER_VARIABLE = "NORMSCOPE_DATA"
"""Names the user's own folder, with a folder for each data set in it: ``$NORMSCOPE_DATA/mnist/``. It is only read."""


class DataNotFound(FileNotFoundError):
    """A data set's file is neither on disk nor to be had from its addresses."""


class DataDamaged(ValueError):
    """A file has a data set's name and not its bytes. It is left as it is."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What there is of a data set on this machine."""

    kind: Literal["present", "cached", "missing", "damaged"]
    words: str
    """One line for people: where it is, what is missing, or which file is damaged."""

    @property
    def ready(self) -> bool:
        """Whether it can be read without the network."""
        return self.kind in {"present", "cached"}


def locate(dataset: DataSet, *, progress: Progress | None = None) -> dict[str, Path]:
    """Find every file of a data set, and fetch the ones that are not here.

    A damaged file in the cache is fetched again. Raises ``DataNotFound`` and ``DataDamaged`` with what to do.

    Args:
        dataset: What to find.
        progress: Told how far a download is.

    Returns:
        The path of every file by its name; each had the right sha256 a moment ago.
    """
    return {file.name: _locate_file(dataset, file, progress) for file in dataset.files}


def state(dataset: DataSet) -> State:
    """Say what there is of a data set, without fetching anything."""
    found: list[Path] = []
    absent: list[DataFile] = []
    for file in dataset.files:
        path = find(dataset, file)
        if path is None:
            absent.append(file)
        elif sha256(path) != file.sha256:
            return State(kind="damaged", words=f"damaged: {path} ({size_in_words(path.stat().st_size)}, wrong sha256)")
        else:
            found.append(path)
    if absent:
        part = f": {len(absent)} of {len(dataset.files)} files missing" if found else ""
        source = f"comes with the package {dataset.package}" if dataset.package else "to fetch"
        return State(
            kind="missing", words=f"not here{part} ({size_in_words(sum(file.bytes for file in absent))} {source})"
        )
    where = " and ".join(dict.fromkeys(str(path.parent) for path in found))
    size = size_in_words(dataset.bytes)
    if dataset.package is None and any(path.parent == cache_folder() / dataset.name for path in found):
        return State(kind="cached", words=f"cached in {where} ({size})")
    return State(kind="present", words=f"present in {where} ({size})")


def find(dataset: DataSet, file: DataFile) -> Path | None:
    """Give the first place that has a file of this name, whatever its bytes."""
    return next((folder / file.name for folder in folders(dataset) if (folder / file.name).is_file()), None)


def damage(dataset: DataSet, file: DataFile, path: Path) -> str | None:
    """Say what is wrong with a file's bytes; None when they are the published ones."""
    found = sha256(path)
    if found == file.sha256:
        return None
    return (
        f"{path} is not the {dataset.name} file of that name: expected sha256 {file.sha256} ({file.bytes} bytes), "
        f"found {found} ({path.stat().st_size} bytes). It was left as it is; replace it or move it."
    )


def folders(dataset: DataSet) -> list[Path]:
    """List the folders looked in, first to last.

    Raises:
        DataNotFound: If ``NORMSCOPE_DATA`` names something that is no folder.
    """
    if dataset.package is not None:
        package = find_spec(dataset.package)
        roots = (package.submodule_search_locations or []) if package else []
        return [Path(root) / dataset.folder_in_package for root in roots]
    own = os.environ.get(FOLDER_VARIABLE)
    if not own:
        return [cache_folder() / dataset.name]
    if not Path(own).expanduser().is_dir():
        raise DataNotFound(
            f"{FOLDER_VARIABLE} is {own!r}, which is no folder; correct it, or unset it to use the cache"
        )
    return [Path(own).expanduser() / dataset.name, cache_folder() / dataset.name]


def cache_folder() -> Path:
    """Give the folder that fetched data sets are kept in, which XDG_CACHE_HOME moves."""
    from pooch import os_cache

    return Path(os_cache("normscope"))


def size_in_words(count: int) -> str:
    """Write a number of bytes for people; 1 MB is a million."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _locate_file(dataset: DataSet, file: DataFile, progress: Progress | None) -> Path:
    """Find one file, or fetch it.

    Raises:
        DataDamaged: If a file of that name, not in our cache, has other bytes.
        DataNotFound: If a package that should hold the file does not.
    """
    path = find(dataset, file)
    if path is not None:
        damaged = damage(dataset, file, path)
        if damaged is None:
            return path
        if dataset.package is not None or path.parent != cache_folder() / dataset.name:
            raise DataDamaged(damaged)
    if dataset.package is not None:
        raise DataNotFound(
            f"data set {dataset.name!r} comes with the Python package {dataset.package}, and {file.name} is not in "
            f"{[str(folder) for folder in folders(dataset)] or 'any folder: the package is not installed'}; "
            "`pip install scikit-learn` brings it"
        )
    return _fetch(dataset, file, progress)


def _fetch(dataset: DataSet, file: DataFile, progress: Progress | None) -> Path:
    """Fetch into the cache; of two processes that want the same file, the second waits and uses what the first got.

    Raises:
        DataNotFound: If no mirror served the right bytes.
    """
    from filelock import FileLock

    target = cache_folder() / dataset.name / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{file.name}.lock")):
        if target.is_file() and sha256(target) == file.sha256:
            return target
        for leftover in target.parent.glob(f".{file.name}.*.part"):
            leftover.unlink()
        failures = download(file, target, progress=progress)
    if failures:
        damaged = f"; the copy in the cache is damaged (sha256 {sha256(target)})" if target.is_file() else ""
        raise DataNotFound(
            f"data set {dataset.name!r} is not here: no good {file.name} in\n"
            + "".join(f"  {folder}\n" for folder in folders(dataset))
            + f"and it could not be fetched{damaged}:\n"
            + "".join(f"  {failure}\n" for failure in failures)
            + f"Put the file ({file.bytes} bytes, sha256 {file.sha256}) into one of these folders, or set "
            + f"{FOLDER_VARIABLE} to a folder that has {dataset.name}/{file.name}."
        )
    return target
