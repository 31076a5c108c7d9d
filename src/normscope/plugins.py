"""Norms, placements, tasks and probes of other packages, found by their entry points.

A package announces them in its ``pyproject.toml``, and they stand in the catalogue beside ours::

    [project.entry-points."normscope.norms"]
    my_norm = "my_package:MyNorm"

The groups are ``normscope.norms`` (a class or function of a width and keyword arguments), ``normscope.placements`` (a
``Placement``), ``normscope.tasks`` (a ``Task``) and ``normscope.probes``.
"""

import contextlib
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class PluginIgnored(UserWarning):
    """Another package's entry cannot be used; everything else can."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """What another package brought."""

    name: str
    """Its key."""
    found: Any
    """The object itself."""
    package: str
    """Name and version of the package."""


def load_plugins(group: str, *, taken: Collection[str], wanted: Callable[[Any], bool], kind: str) -> list[Plugin]:
    """Load the entries of a group from the installed packages.

    One that fails, is of another kind, or whose name is taken or cannot be typed, is left out with a
    :class:`PluginIgnored` warning that names it and its package: somebody else's mistake must not stop a study that
    has no use for it. What a package prints when it is imported goes to standard error.

    Args:
        group: Such as ``"normscope.norms"``.
        taken: Names that are ours.
        wanted: Whether an object can be of this group.
        kind: What it is then, in words.

    Returns:
        What can be used, in the order of names; of two with one name the first package's, by its name.
    """
    loaded: list[Plugin] = []
    # A folder that stands twice on the path gives its entries twice.
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
                    found = entry.load()
                    fits = wanted(found)
            except (Exception, SystemExit) as error:
                _ignore(where, f"{type(error).__name__}: {error}")
                continue
            if fits:
                loaded.append(Plugin(name=name, found=found, package=package))
            else:
                _ignore(where, f"{entry.value} is of another kind, {type(found).__name__}: expected {kind}")
    return loaded


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def _ignore(where: str, why: str) -> None:
    # Without a place of ours, whose line would be shown as if it were at fault.
    why = " ".join(why.split())
    warnings.warn_explicit(f"{where} is ignored: {why}", PluginIgnored, filename="normscope", lineno=1)
