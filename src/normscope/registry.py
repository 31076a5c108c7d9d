"""A registry: the entries of one kind by name, ours and those of installed packages.

The registries stand with what they register: ``normscope.norms.NORMS``, ``normscope.placement.PLACEMENTS``,
``normscope.tasks.TASKS`` and ``normscope.diagnostics.PROBES``. A package adds entries in its ``pyproject.toml``::

    [project.entry-points."normscope.norms"]
    my_norm = "my_package:MyNorm"

The groups are ``normscope.norms`` (a class or function of a width and keyword arguments), ``normscope.placements`` (a
``Placement``), ``normscope.tasks`` (a ``Task``) and ``normscope.probes`` (a function).
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from normscope.errors import NormscopeError

Entry = TypeVar("Entry")


class PluginIgnored(UserWarning):
    """An entry point of another package cannot be used; everything else can."""


class UnknownName(NormscopeError, KeyError):
    """No entry has this name; the message suggests the nearest one and lists them all.

    Args:
        kind: Name of the kind, such as ``"norm"``.
        names: The names that there are.
        name: What was asked for.
    """

    def __init__(self, kind: str, names: Collection[str], name: str) -> None:
        begins = sorted((key for key in names if name.startswith(key)), key=len)
        near = begins[-1:] or get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"there is no {kind} {name!r}: {hint}There are {', '.join(names)}")

    def __str__(self) -> str:
        """Return the message; ``KeyError`` would quote it."""
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """An entry that another package brings."""

    name: str
    """Its key."""
    entry: Any
    """The object itself."""
    package: str
    """Name and version of the package."""


class Registry(MutableMapping[str, Entry], Generic[Entry]):
    """Entries by name, in the order of every table: ours first, then those of installed packages by name.

    An entry is an object, or a text ``"module:attribute"`` that is imported at its first use. Entry points are read
    when a name is not among ours, and when the registry is iterated.

    Args:
        kind: Name of the kind in messages, such as ``"norm"``.
        entries: Our entries.
        group: Entry point group, such as ``"normscope.norms"``.
        accepts: Whether an object of another package is an entry of this kind.
        wanted: What ``accepts`` accepts, for the message.
        reserved: Names that no package may take, beside those of ``entries``.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Entry | str],
        *,
        group: str,
        accepts: Callable[[Any], bool],
        wanted: str,
        reserved: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry | str] = dict(entries)
        self._accepts, self._wanted = accepts, wanted
        self._reserved = {*entries, *reserved}
        self._origins: dict[str, str] | None = None

    def __getitem__(self, name: str) -> Entry:
        """Return an entry by its name.

        Raises:
            UnknownName: If no entry has this name.
        """
        if name not in self._entries:
            self._load_plugins()
        if name not in self._entries:
            raise UnknownName(self.kind, self._entries, name)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = cast(Entry, getattr(import_module(module), attribute))
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        """Set an entry for this process."""
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        """Remove an entry from this process."""
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        """Return whether an entry has this name, without importing it."""
        if name not in self._entries:
            self._load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        self._load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        self._load_plugins()
        return len(self._entries)

    def origin(self, name: str) -> str | None:
        """Return name and version of the package that brought an entry; None for ours."""
        self._load_plugins()
        return (self._origins or {}).get(name)

    def _load_plugins(self) -> None:
        if self._origins is None:
            # Set first: a package may read this registry while it is imported.
            self._origins = {}
            for plugin in load_plugins(self.group, taken=self._reserved, accepts=self._accepts, wanted=self._wanted):
                self._entries[plugin.name] = plugin.entry
                self._origins[plugin.name] = plugin.package


def look_up(kind: str, entries: Mapping[str, Entry], name: str) -> Entry:
    """Return an entry of any mapping by its name.

    Args:
        kind: Name of the kind, for the message.
        entries: A registry or a dictionary.
        name: Its key.

    Raises:
        UnknownName: If there is no such entry.
    """
    if name not in entries:
        raise UnknownName(kind, list(entries), name)
    return entries[name]


def load_plugins(group: str, *, taken: Collection[str], accepts: Callable[[Any], bool], wanted: str) -> list[Plugin]:
    """Load the entries of a group from the installed packages.

    An entry that fails, is of another kind, or whose name is taken or is no identifier, is left out with a
    :class:`PluginIgnored` warning that names it and its package: a fault of another package must not stop a study that
    does not use it. What a package prints while it is imported goes to standard error.

    Args:
        group: Such as ``"normscope.norms"``.
        taken: Names that are taken.
        accepts: Whether an object can be of this group.
        wanted: What ``accepts`` accepts, for the message.

    Returns:
        The usable entries, sorted by name; of two with one name the first by package.
    """
    loaded: list[Plugin] = []
    # A folder that stands twice on the path lists its entries twice.
    entries = {(entry.name, _package(entry), entry.value): entry for entry in entry_points(group=group)}
    for (name, package, _), entry in sorted(entries.items()):
        where = f"{group} {name!r} of {package}"
        if not name.isidentifier():
            _ignore(where, "the name must be one word of letters, digits and _")
        elif name in taken:
            _ignore(where, "the name is taken")
        elif others := [plugin.package for plugin in loaded if plugin.name == name]:
            _ignore(where, f"the name is taken by {others[0]}")
        else:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    made = entry.load()
                    fits = accepts(made)
            except (Exception, SystemExit) as error:
                _ignore(where, f"{type(error).__name__}: {error}")
                continue
            if fits:
                loaded.append(Plugin(name=name, entry=made, package=package))
            else:
                _ignore(where, f"{entry.value} is of another kind, {type(made).__name__}: expected {wanted}")
    return loaded


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def _ignore(where: str, why: str) -> None:
    # Without a line of ours, which the warning would show as if it were at fault.
    why = " ".join(why.split())
    warnings.warn_explicit(f"{where} is ignored: {why}", PluginIgnored, filename="normscope", lineno=1)
