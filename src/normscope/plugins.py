"""Norms, placements, tasks and probes of other packages, found by their entry points.

A package announces them in its ``pyproject.toml``, and they stand in the catalogue beside ours::

    [project.entry-points."normscope.norms"]
    my_norm = "my_package:MyNorm"

The groups are ``normscope.norms`` (a class or function of a width and keyword arguments), ``normscope.placements`` (a
``Placement``), ``normscope.tasks`` (a ``Task``) and ``normscope.probes``.
"""

import warnings
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class PluginIgnored(UserWarning):
    """Another package's entry cannot be used; everything else can."""


def load_plugins(group: str, *, taken: Collection[str], found: Collection[EntryPoint] | None = None) -> dict[str, Any]:
    """Load the entries of a group.

    One that fails, or whose name is taken, is left out with a :class:`PluginIgnored` warning that names it and its
    package: somebody else's mistake must not stop a study that has no use for it.

    Args:
        group: Such as ``"normscope.norms"``.
        taken: Names that are ours.
        found: The entry points; those of the installed packages where None.

    Returns:
        The objects by name, in the order of their names.
    """
    loaded: dict[str, Any] = {}
    for entry in sorted(entry_points(group=group) if found is None else found, key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else "an unknown package"
        where = f"{group} {entry.name!r} of {package}"
        if entry.name in taken or entry.name in loaded:
            warnings.warn(f"{where} is ignored: the name is taken", PluginIgnored, stacklevel=2)
            continue
        try:
            loaded[entry.name] = entry.load()
        except Exception as error:
            warnings.warn(f"{where} is ignored: {type(error).__name__}: {error}", PluginIgnored, stacklevel=2)
    return loaded
