"""The files of data sets on this machine: search, download, verification. Every file is hashed at every use."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from normscope.arguments import check_arguments
from normscope.data.download import DataFile, DataSet, Progress, download, sha256
from normscope.data.registry import SETS
from normscope.errors import NormscopeError
from normscope.files import CacheUnusable, cache_folder, create_in_cache, is_abandoned, leftovers

FOLDER_VARIABLE = "NORMSCOPE_DATA"
"""Environment variable with the user's folder of data sets, as in ``$NORMSCOPE_DATA/mnist/``; never written to."""


class DataNotFound(NormscopeError, FileNotFoundError):
    """A file of a data set is neither on disk nor available from its mirrors."""


class DataDamaged(NormscopeError, ValueError):
    """A file has the expected name but a different hash. It is not modified."""


class DataUnverified(UserWarning):
    """A file without a published sha256 is used; the warning contains its sha256."""


UNVERIFIED = "unverified: "
"""Prefix of the sha256 of such a file wherever it is recorded."""


@dataclass(frozen=True, kw_only=True)
class DataState:
    """State of a data set on this machine."""

    kind: Literal["present", "cached", "missing", "damaged"]
    unverified: tuple[str, ...] = ()
    """Names of the present files without a published sha256."""
    description: str
    """One-line description: its location, the missing files, or the damaged file."""

    @property
    def ready(self) -> bool:
        """Whether it can be read without a download."""
        return self.kind in {"present", "cached"}


@check_arguments
def locate(dataset: DataSet, *, progress: Progress | None = None) -> dict[str, Path]:
    """Find every file of a data set, and download missing ones.

    A damaged file in the cache is downloaded again. Raises ``DataNotFound`` and ``DataDamaged`` with instructions, and
    warns with ``DataUnverified`` of files without a published sha256.

    Args:
        dataset: Data set to find.
        progress: Callback for the progress of a download.

    Returns:
        Paths by file name; every published sha256 was just checked.
    """
    return {file.name: _locate_file(dataset, file, progress) for file in dataset.files}


def found_hashes(dataset: DataSet, paths: dict[str, Path]) -> dict[str, str]:
    """Return the recorded hash of each file: the published sha256, or ``unverified:`` and the computed one.

    Args:
        dataset: The data set.
        paths: Paths of its files, from :func:`locate`.
    """
    return {file.name: file.sha256 or UNVERIFIED + sha256(paths[file.name]) for file in dataset.files}


@check_arguments
def state(dataset: DataSet) -> DataState:
    """Return the state of a data set on this machine, without a download."""
    found: list[Path] = []
    absent: list[DataFile] = []
    unverified: dict[str, str] = {}
    for file in dataset.files:
        path = find(dataset, file)
        if path is None:
            absent.append(file)
        elif file.sha256 is None:
            unverified[path.name] = sha256(path)
            found.append(path)
        elif sha256(path) != file.sha256:
            return DataState(
                kind="damaged", description=f"damaged: {path} ({format_bytes(path.stat().st_size)}, wrong sha256)"
            )
        else:
            found.append(path)
    if absent:
        part = f": {len(absent)} of {len(dataset.files)} files missing" if found else ""
        return DataState(kind="missing", description=f"not here{part} ({_source(dataset, absent)})")
    where = " and ".join(dict.fromkeys(str(path.parent) for path in found))
    details = format_bytes(sum(path.stat().st_size for path in found))
    if unverified:
        digests = ", ".join(f"{name} {digest}" for name, digest in unverified.items())
        details += f"; no published sha256, unverified: {digests}"
    names = tuple(unverified)
    if dataset.package is None and any(_is_in_cache(dataset, path) for path in found):
        return DataState(kind="cached", description=f"cached in {where} ({details})", unverified=names)
    return DataState(kind="present", description=f"present in {where} ({details})", unverified=names)


def table() -> list[tuple[str, str, str, str, str]]:
    """List every data set: name, state on this machine, size, licence, home page. Downloads nothing."""
    return [(each.name, state(each).description, _size(each), each.licence, each.home) for each in SETS.values()]


@check_arguments
def fetch(names: Iterable[str] = (), *, progress: Progress | None = None) -> dict[str, dict[str, Path]]:
    """Download data sets, so that they can be read without a network.

    Args:
        names: Names of data sets. If empty: all data sets with published hashes that are available. A data set without
            published hashes must be named, and a warning is issued.
        progress: Callback for the progress of a download.

    Returns:
        Paths by data set and file name.
    """
    names = list(names)
    chosen = [each for each in _chosen(names) if names or _fetched_by_default(each)]
    return {each.name: locate(each, progress=progress) for each in chosen}


@check_arguments
def verify(names: Iterable[str] = ()) -> None:
    """Verify the hashes of all present files; downloads nothing. Files without a published sha256 always pass.

    Args:
        names: Names of data sets. If empty: all data sets, and missing ones are no error.

    Raises:
        DataDamaged: If files have other hashes; the message lists each with both hashes.
        DataNotFound: If a named data set is missing or incomplete.
    """
    names = list(names)
    chosen = _chosen(names)
    damaged = []
    for dataset in chosen:
        for file in dataset.files:
            path = find(dataset, file)
            found = path and damage(dataset, file, path)
            if found:
                damaged.append(found)
    if damaged:
        raise DataDamaged("\n".join(damaged))
    states = {each.name: state(each) for each in chosen}
    absent = [f"data set {name!r} is {found.description}" for name, found in states.items() if not found.ready]
    if names and absent:
        raise DataNotFound("\n".join(absent))


def find(dataset: DataSet, file: DataFile) -> Path | None:
    """Return the first path with the name of a file or one of its other names, without checking the content.

    Raises:
        DataNotFound: If a folder cannot be read.
    """
    names = (file.name, *file.other_names)
    places = (folder / name for folder in folders(dataset) for name in names)
    try:
        return next((path for path in places if path.is_file()), None)
    except PermissionError as error:
        raise DataNotFound(
            f"{error.filename} cannot be read: set {FOLDER_VARIABLE} or XDG_CACHE_HOME to a folder that can"
        ) from error


def damage(dataset: DataSet, file: DataFile, path: Path) -> str | None:
    """Return a message if a file differs from its published hash, else None."""
    if file.sha256 is None:
        return None
    found = sha256(path)
    if found == file.sha256:
        return None
    return (
        f"{path} is not the {dataset.name} file of that name: expected sha256 {file.sha256} ({file.bytes} bytes), "
        f"got {found} ({path.stat().st_size} bytes). It was not modified; replace it or move it."
    )


def folders(dataset: DataSet) -> list[Path]:
    """Return the folders to search, in order.

    Raises:
        DataNotFound: If ``NORMSCOPE_DATA`` is not a folder, or there is neither it nor a folder for the cache.
    """
    if dataset.package is not None:
        package = find_spec(dataset.package)
        roots = (package.submodule_search_locations or []) if package else []
        return [Path(root) / dataset.folder_in_package for root in roots]
    user_folder = os.environ.get(FOLDER_VARIABLE)
    try:
        cache = [_cache_of(dataset)]
    except CacheUnusable as error:
        if not user_folder:
            raise DataNotFound(f"{error}, or {FOLDER_VARIABLE} to a folder with the data sets") from error
        cache = []
    if not user_folder:
        return cache
    # os.path.expanduser keeps a ~ where there is no home directory; the method of Path raises.
    given = Path(os.path.expanduser(user_folder))
    if not os.path.isdir(given):
        raise DataNotFound(
            f"{FOLDER_VARIABLE} is {user_folder!r}, which is not a folder; correct it, or unset it to use the cache"
        )
    return [given / dataset.place, *cache]


def format_bytes(count: int) -> str:
    """Format a number of bytes, such as ``1.2 MB``; 1 MB is 10^6 bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _locate_file(dataset: DataSet, file: DataFile, progress: Progress | None) -> Path:
    """Find a file, or download it.

    Raises:
        DataDamaged: If a file of that name outside the cache has another hash.
        DataNotFound: If the Python package of the data set does not contain the file.
    """
    path = find(dataset, file)
    if path is not None:
        damaged = damage(dataset, file, path)
        if damaged is None:
            if file.sha256 is None:
                _warn_unverified(dataset, path)
            return path
        if dataset.package is not None or not _is_in_cache(dataset, path):
            raise DataDamaged(damaged)
    if dataset.package is not None:
        raise DataNotFound(
            f"data set {dataset.name!r} comes with the Python package {dataset.package}, and {file.name} is not in "
            f"{[str(folder) for folder in folders(dataset)] or 'any folder: the package is not installed'}; "
            "run `pip install scikit-learn`"
        )
    path = _fetch(dataset, file, progress)
    if file.sha256 is None:
        _warn_unverified(dataset, path)
    return path


def _warn_unverified(dataset: DataSet, path: Path) -> None:
    """Warn that a file has no published hash."""
    warnings.warn(
        f"data set {dataset.name!r}: {path.name} has no published sha256, so {path} is used unverified; "
        f"it has {path.stat().st_size} bytes and sha256 {sha256(path)}",
        DataUnverified,
        stacklevel=4,
    )


def _cache_of(dataset: DataSet) -> Path:
    """Return the folder of a data set in the cache."""
    return cache_folder() / dataset.place


def _is_in_cache(dataset: DataSet, path: Path) -> bool:
    """Return whether a path is that of a downloaded file."""
    try:
        return path.parent == _cache_of(dataset)
    except CacheUnusable:
        return False


def _source(dataset: DataSet, absent: list[DataFile]) -> str:
    """Describe the size and the source of the missing files."""
    if any(file.bytes is None for file in absent):
        size = "size unknown"
    else:
        size = format_bytes(sum(file.bytes or 0 for file in absent))
    if dataset.package:
        return f"{size} comes with the package {dataset.package}"
    if all(file.urls for file in absent):
        return f"{size} to fetch"
    return f"{size}, bring your own: {dataset.bring}"


def _fetch(dataset: DataSet, file: DataFile, progress: Progress | None) -> Path:
    """Download a file into the cache; a second process that needs the same file waits for the first.

    Raises:
        DataNotFound: If no mirror serves the right bytes.
    """
    from filelock import FileLock

    target = _cache_of(dataset) / file.name
    create_in_cache(target.parent)
    with FileLock(target.with_name(f".{file.name}.lock")):
        if target.is_file() and file.sha256 in {None, sha256(target)}:
            return target
        for leftover in filter(is_abandoned, leftovers(target)):
            leftover.unlink(missing_ok=True)
        failures = download(file, target, progress=progress)
    if failures or not file.urls:
        damaged = f"; the copy in the cache is damaged (sha256 {sha256(target)})" if target.is_file() else ""
        reason = (
            f"and it could not be downloaded{damaged}:\n" + "".join(f"  {failure}\n" for failure in failures)
            if file.urls
            else f"and it has no download address{damaged}. Bring your own: {dataset.bring}; {dataset.home}\n"
        )
        known = f" ({file.bytes} bytes, sha256 {file.sha256})" if file.sha256 else ""
        also = f" (or {', '.join(file.other_names)})" if file.other_names else ""
        raise DataNotFound(
            f"data set {dataset.name!r} is not here: no valid {file.name}{also} in\n"
            + "".join(f"  {folder}\n" for folder in folders(dataset))
            + reason
            + f"Put the file{known} into one of these folders, or set "
            + f"{FOLDER_VARIABLE} to a folder that has {dataset.place}/{file.name}."
        )
    return target


def _size(dataset: DataSet) -> str:
    if all(file.bytes is None for file in dataset.files):
        return "unknown"
    return format_bytes(dataset.bytes) + (" and more" if any(file.bytes is None for file in dataset.files) else "")


def _fetched_by_default(dataset: DataSet) -> bool:
    reachable = dataset.package is not None or all(file.urls for file in dataset.files)
    return dataset.verified and (reachable or state(dataset).ready)


def _chosen(names: Iterable[str]) -> list[DataSet]:
    return [_dataset(name) for name in list(names) or SETS]


def _dataset(name: str) -> DataSet:
    if name in SETS:
        return SETS[name]
    near = get_close_matches(name, SETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no data set {name!r}.{hint} There are: {', '.join(SETS)}")
