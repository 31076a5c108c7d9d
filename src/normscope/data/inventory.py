"""The data sets as a person asks about them: what there is, fetch these, check those."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from normscope.data.download import Progress, sha256
from normscope.data.files import State, find, locate, state
from normscope.data.sets import SETS, DataSet


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of data sets."""

    name: str
    what: str
    state: State
    bytes: int
    licence: str
    home: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file, hashed just now."""

    dataset: str
    file: str
    path: Path | None
    """None where there is no such file."""
    expected: str
    found: str | None
    """sha256 of what is there."""

    @property
    def whole(self) -> bool:
        """Whether the bytes are the published ones."""
        return self.found == self.expected


def table() -> list[Row]:
    """List every data set with its state on this machine; nothing is fetched."""
    return [
        Row(name=one.name, what=one.what, state=state(one), bytes=one.bytes, licence=one.licence, home=one.home)
        for one in SETS.values()
    ]


def fetch(names: Iterable[str], *, progress: Progress | None = None) -> dict[str, dict[str, Path]]:
    """Make data sets ready to be read without the network; return their files' paths by set and by name."""
    chosen = [_dataset(name) for name in names]
    return {one.name: locate(one, progress=progress) for one in chosen}


def verify(names: Iterable[str]) -> list[Checked]:
    """Hash every file of some data sets; nothing is fetched."""
    checked = []
    for one in [_dataset(name) for name in names]:
        for file in one.files:
            path = find(one, file)
            found = None if path is None else sha256(path)
            checked.append(Checked(dataset=one.name, file=file.name, path=path, expected=file.sha256, found=found))
    return checked


def _dataset(name: str) -> DataSet:
    if name in SETS:
        return SETS[name]
    near = get_close_matches(name, SETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no data set {name!r}.{hint} There are: {', '.join(SETS)}")
