"""Where a data set's files are: the user's own folder, the cache, or the network; every file is hashed at every use."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from normscope.data.download import DataFile, DataSet, Progress, download, sha256
from normscope.data.registry import SETS
from normscope.errors import NormscopeError
from normscope.files import leftovers

FOLDER_VARIABLE = "NORMSCOPE_DATA"
"""Names the user's own folder, with a folder for each data set in it: ``$NORMSCOPE_DATA/mnist/``. It is only read."""


class DataNotFound(NormscopeError, FileNotFoundError):
    """A data set's file is neither on disk nor to be had from its addresses."""


class DataDamaged(NormscopeError, ValueError):
    """A file has a data set's name and not its bytes. It is left as it is."""


class DataUnverified(UserWarning):
    """A file is used whose right sha256 is unknown; the warning names the one it has."""


UNVERIFIED = "unverified: "
"""Stands before the sha256 of such a file wherever it is recorded."""


@dataclass(frozen=True, kw_only=True)
class DataState:
    """What there is of a data set on this machine."""

    kind: Literal["present", "cached", "missing", "damaged"]
    unverified: tuple[str, ...] = ()
    """Names of the files that are here and have no sha256 to be compared with."""
    description: str
    """One line for people: where it is, what is missing, or which file is damaged."""

    @property
    def ready(self) -> bool:
        """Whether it can be read without the network."""
        return self.kind in {"present", "cached"}


def locate(dataset: DataSet, *, progress: Progress | None = None) -> dict[str, Path]:
    """Find every file of a data set, and fetch the ones that are not here.

    A damaged file in the cache is fetched again. Raises ``DataNotFound`` and ``DataDamaged`` with what to do, and warns
    with ``DataUnverified`` of a file that has no published sha256.

    Args:
        dataset: What to find.
        progress: Callback for the progress of a download.

    Returns:
        The path of every file by its name; each that has a published sha256 had it a moment ago.
    """
    return {file.name: _locate_file(dataset, file, progress) for file in dataset.files}


def found_hashes(dataset: DataSet, paths: dict[str, Path]) -> dict[str, str]:
    """Return what is recorded of a set's files: the published sha256, or ``unverified:`` and the one that was found.

    Args:
        dataset: Whose files.
        paths: Where they are, as ``locate`` found them.
    """
    return {file.name: file.sha256 or UNVERIFIED + sha256(paths[file.name]) for file in dataset.files}


def state(dataset: DataSet) -> DataState:
    """Say what there is of a data set, without fetching anything."""
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
    if dataset.package is None and any(path.parent == _cache_of(dataset) for path in found):
        return DataState(kind="cached", description=f"cached in {where} ({details})", unverified=names)
    return DataState(kind="present", description=f"present in {where} ({details})", unverified=names)


def table() -> list[tuple[str, str, str, str, str]]:
    """List every data set: name, state on this machine, size, licence, home page. Nothing is fetched."""
    return [(one.name, state(one).description, _size(one), one.licence, one.home) for one in SETS.values()]


def fetch(names: Iterable[str] = (), *, progress: Progress | None = None) -> dict[str, dict[str, Path]]:
    """Make data sets ready to be read without the network.

    Args:
        names: Which. When none is named: all that can be fetched or are here, and whose every sha256 is known. A set
            of files that nobody here has seen is fetched by name only, and warned of.
        progress: Callback for the progress of a download.

    Returns:
        The paths of their files, by set and by file name.
    """
    names = list(names)
    chosen = [one for one in _chosen(names) if names or _fetched_unasked(one)]
    return {one.name: locate(one, progress=progress) for one in chosen}


def verify(names: Iterable[str] = ()) -> None:
    """Hash every file that is here; nothing is fetched. One that has no published sha256 cannot be wrong.

    Args:
        names: Which sets; all of them when none is named, and then one that is not here is no fault.

    Raises:
        DataDamaged: If files have the wrong bytes; the message names each with both hashes.
        DataNotFound: If a set asked for by name is not here, or not whole.
    """
    names = list(names)
    chosen = _chosen(names)
    damaged = []
    for one in chosen:
        for file in one.files:
            path = find(one, file)
            found = path and damage(one, file, path)
            if found:
                damaged.append(found)
    if damaged:
        raise DataDamaged("\n".join(damaged))
    absent = [f"data set {one.name!r} is {state(one).description}" for one in chosen if not state(one).ready]
    if names and absent:
        raise DataNotFound("\n".join(absent))


def find(dataset: DataSet, file: DataFile) -> Path | None:
    """Return the first place that has a file of this name, or one of its other names, whatever its bytes."""
    names = (file.name, *file.other_names)
    places = (folder / name for folder in folders(dataset) for name in names)
    return next((path for path in places if path.is_file()), None)


def damage(dataset: DataSet, file: DataFile, path: Path) -> str | None:
    """Say what is wrong with a file's bytes; None when they are the published ones, or none are published."""
    if file.sha256 is None:
        return None
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
        return [_cache_of(dataset)]
    if not Path(own).expanduser().is_dir():
        raise DataNotFound(
            f"{FOLDER_VARIABLE} is {own!r}, which is no folder; correct it, or unset it to use the cache"
        )
    return [Path(own).expanduser() / dataset.place, _cache_of(dataset)]


def cache_folder() -> Path:
    """Return the folder that fetched data sets are kept in, which XDG_CACHE_HOME moves."""
    from pooch import os_cache

    return Path(os_cache("normscope"))


def format_bytes(count: int) -> str:
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
            if file.sha256 is None:
                _warn_unverified(dataset, path)
            return path
        if dataset.package is not None or path.parent != _cache_of(dataset):
            raise DataDamaged(damaged)
    if dataset.package is not None:
        raise DataNotFound(
            f"data set {dataset.name!r} comes with the Python package {dataset.package}, and {file.name} is not in "
            f"{[str(folder) for folder in folders(dataset)] or 'any folder: the package is not installed'}; "
            "`pip install scikit-learn` brings it"
        )
    path = _fetch(dataset, file, progress)
    if file.sha256 is None:
        _warn_unverified(dataset, path)
    return path


def _warn_unverified(dataset: DataSet, path: Path) -> None:
    """Say that a file's bytes could not be compared with anything."""
    warnings.warn(
        f"data set {dataset.name!r}: nobody here knows the right sha256 of {path.name}, so {path} is used as it is; "
        f"it has {path.stat().st_size} bytes and sha256 {sha256(path)}",
        DataUnverified,
        stacklevel=4,
    )


def _cache_of(dataset: DataSet) -> Path:
    """Return the folder of the cache that a data set's fetched files are kept in."""
    return cache_folder() / dataset.place


def _source(dataset: DataSet, absent: list[DataFile]) -> str:
    """Say how much is missing and where it can be had."""
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
    """Fetch into the cache; of two processes that want the same file, the second waits and uses what the first got.

    Raises:
        DataNotFound: If no mirror served the right bytes.
    """
    from filelock import FileLock

    target = _cache_of(dataset) / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{file.name}.lock")):
        if target.is_file() and file.sha256 in {None, sha256(target)}:
            return target
        for leftover in leftovers(target):
            leftover.unlink()
        failures = download(file, target, progress=progress)
    if failures or not file.urls:
        damaged = f"; the copy in the cache is damaged (sha256 {sha256(target)})" if target.is_file() else ""
        reason = (
            f"and it could not be fetched{damaged}:\n" + "".join(f"  {failure}\n" for failure in failures)
            if file.urls
            else f"and it has no address to be fetched from{damaged}. Bring your own: {dataset.bring}; {dataset.home}\n"
        )
        known = f" ({file.bytes} bytes, sha256 {file.sha256})" if file.sha256 else ""
        also = f" (or {', '.join(file.other_names)})" if file.other_names else ""
        raise DataNotFound(
            f"data set {dataset.name!r} is not here: no good {file.name}{also} in\n"
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


def _fetched_unasked(dataset: DataSet) -> bool:
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
