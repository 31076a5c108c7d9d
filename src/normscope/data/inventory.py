"""The data sets as a person asks about them: what there is, fetch these, check those."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from normscope.data.download import DataSet, Progress
from normscope.data.registry import SETS
from normscope.data.store import DataDamaged, DataNotFound, damage, find, locate, size_in_words, state


def table() -> list[tuple[str, str, str, str, str]]:
    """List every data set: name, state on this machine, size, licence, home page. Nothing is fetched."""
    return [(one.name, state(one).words, _size(one), one.licence, one.home) for one in SETS.values()]


def fetch(names: Iterable[str] = (), *, progress: Progress | None = None) -> dict[str, dict[str, Path]]:
    """Make data sets ready to be read without the network.

    Args:
        names: Which. When none is named: all that can be fetched or are here, and whose every sha256 is known. A set
            of files that nobody here has seen is fetched by name only, and warned of.
        progress: Told how far a download is.

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
    absent = [f"data set {one.name!r} is {state(one).words}" for one in chosen if not state(one).ready]
    if names and absent:
        raise DataNotFound("\n".join(absent))


def _size(dataset: DataSet) -> str:
    if all(file.bytes is None for file in dataset.files):
        return "unknown"
    return size_in_words(dataset.bytes) + (" and more" if any(file.bytes is None for file in dataset.files) else "")


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
