"""Import of a user's modules: executed again for every run, from the source text that was read first."""

import csv
import importlib
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import Distribution, entry_points
from pathlib import Path, PurePosixPath
from types import ModuleType

from normscope.errors import NormscopeError

__tracebackhide__ = True

_PACKAGE = Path(__file__).resolve().parents[2]
_INSTALLED = tuple(
    f"{Path(sysconfig.get_path(name))}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_GROUPS = ("normscope.norms", "normscope.placements", "normscope.tasks", "normscope.probes")


class LateImport(NormscopeError):
    """A user's module was imported too late to be part of the file's revision."""


class UserModules(MetaPathFinder):
    """Import hook for a user's modules: those that are neither installed nor part of normscope.

    Every run gets its own module objects, so no state passes from one run to the next. All are executed from the text
    that was read first: editing a file does not affect a running study.

    Args:
        file: The user's file.
        texts: Source texts of the file and of its known imports.
    """

    def __init__(self, file: Path, texts: Mapping[Path, bytes]) -> None:
        self.folder = f"{file.parent}{os.sep}"
        self.texts = dict(texts)
        self.imported: dict[Path, str] = {}
        """Imports that were not among ``texts``, and their module names."""
        self.modules: dict[str, ModuleType] = {}
        """Modules of this run while another run is active."""
        self.names: set[str] = set()
        """Names of all modules of this run."""
        self.open = True
        """Whether modules outside ``texts`` may still be imported."""
        self.never: set[str] = set()
        """Top-level modules that are the same in all runs, wherever they lie."""

    def anew(self) -> "UserModules":
        """Return a hook for another run, with the same texts and closed to others."""
        other = copy(self)
        other.modules, other.names, other.open = {}, set(), False
        return other

    @contextmanager
    def present(self) -> Iterator[None]:
        """Install this run's modules in ``sys.modules`` during the block, and hide other modules of the same files."""
        if self in sys.meta_path:
            yield
            return
        self.never = _never_hidden()
        hidden = {
            name: module for name, module in list(sys.modules.items()) if not self._stays(name) and self._covers(module)
        }
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, self)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self.modules = {name: sys.modules.pop(name) for name in self.names if name in sys.modules}
            sys.modules.update(hidden)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python would; a module of the user's is executed from the stored text.

        Its execution raises :class:`LateImport` if it is not part of the revision; finding it does not, since other
        packages look for modules whose names a user's files happen to have.
        """
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        found = next((spec for finder in finders if (spec := finder.find_spec(fullname, path, target))), None)
        if found is None or self._stays(fullname) or not any(is_user_file(place) for place in _places(found)):
            return found
        if found.origin is not None and found.origin.endswith(".py") and os.path.isfile(found.origin):
            found.loader = _StoredTextLoader(fullname, found.origin, self)
        elif found.origin is None:
            # A namespace package keeps references to its modules.
            self.names.add(fullname)
        return found

    def text(self, path: Path, name: str) -> bytes:
        """Return the text of a module of the user's, which is about to be executed.

        Raises:
            LateImport: If the module is not part of the revision.
        """
        if path not in self.texts:
            if not self.open:
                raise LateImport(
                    f"{path} is imported only now, under a name that the text of the file does not show, so runs would "
                    "not notice when it is edited: import it at the top of the file"
                )
            self.texts[path] = path.read_bytes()
            beneath = str(path).startswith(self.folder)
            self.imported[path] = path.relative_to(self.folder).as_posix() if beneath else name
        return self.texts[path]

    def _stays(self, name: str) -> bool:
        return name.partition(".")[0] in self.never

    def _covers(self, module: ModuleType) -> bool:
        """Return whether a loaded module is a user's module of an earlier import."""
        if not isinstance(module, ModuleType):
            return False
        spec = module.__dict__.get("__spec__")
        places = _places(spec) if isinstance(spec, ModuleSpec) else []
        return any(
            Path(place) in self.texts or (place.startswith(self.folder) and is_user_file(place)) for place in places
        )


class _StoredTextLoader(SourceFileLoader):
    """Executes stored source text; neither reads nor writes bytecode caches."""

    def __init__(self, name: str, path: str, modules: UserModules) -> None:
        super().__init__(name, path)
        self.modules = modules

    def create_module(self, spec: ModuleSpec) -> None:
        """Record the name of the module; Python creates it."""
        self.modules.names.add(spec.name)

    def get_data(self, path: str) -> bytes:
        """Return the stored text of the module, or the content of another file, such as data of its package.

        Raises:
            LateImport: If the module is not part of the revision.
        """
        if path != self.path:
            return super().get_data(path)
        return self.modules.text(Path(os.path.abspath(path)), self.name)

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Report that there is no bytecode cache.

        Raises:
            OSError: Always.
        """
        raise OSError


def is_user_file(place: str) -> bool:
    """Return whether a file or folder belongs to neither Python nor an installed package nor normscope."""
    path = Path(os.path.abspath(place))
    if {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_PACKAGE):
        return False
    return not str(path).startswith(_INSTALLED) and not has_distribution(path)


def has_distribution(path: Path) -> bool:
    """Return whether a file or folder belongs to a distribution whose metadata lie beside it.

    That is so after ``pip install --target``, wherever the folder is. The metadata of an editable installation lie
    elsewhere, so its files are a user's.
    """
    for folder in path.parents:
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        if not _distributed(folder).isdisjoint({str(inside), *(f"{package}/*" for package in inside.parents)}):
            return True
    return False


@cache
def _distributed(folder: Path) -> frozenset[str]:
    """Return what the distributions in a folder have there: files, folders, and ``package/*`` for whole packages."""
    found: set[PurePosixPath] = set()
    for metadata in (*folder.glob("*.dist-info"), *folder.glob("*.egg-info"), *folder.glob("EGG-INFO")):
        distribution = Distribution.at(metadata)
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if _is_source_tree(metadata) or origin.get("dir_info", {}).get("editable"):
            continue
        if record := distribution.read_text("RECORD"):
            paths = {PurePosixPath(row[0]) for row in csv.reader(record.splitlines()) if row}
            found |= {each for path in paths for each in (path, *path.parents)}
            found |= {path.with_name("*") for path in paths if path.name == "__init__.py"}
        else:
            # One file, METADATA, or PKG-INFO of an egg.
            texts = (distribution.read_text(name) or "" for name in ("METADATA", "PKG-INFO", ""))
            names = [re.sub("[-.]+", "_", name) for text in texts for name in re.findall(r"(?m)^Name: (\S+)$", text)]
            for top in {*names, *(distribution.read_text("top_level.txt") or "").split()}:
                found |= {PurePosixPath(top), PurePosixPath(f"{top}.py"), PurePosixPath(f"{top}/*")}
    return frozenset(map(str, found - {PurePosixPath()}))


def _is_source_tree(metadata: Path) -> bool:
    """Return whether a build wrote metadata into a source tree: without a version, near the file of the project."""
    near = (folder / name for folder in metadata.parents[:2] for name in ("pyproject.toml", "setup.py", "setup.cfg"))
    return "-" not in metadata.stem and any(path.exists() for path in near)


def _places(spec: ModuleSpec) -> list[str]:
    """Return the file of a module, or the folders of a namespace package."""
    if spec.origin is not None:
        return [spec.origin] if spec.has_location else []
    return list(spec.submodule_search_locations or ())


def _never_hidden() -> set[str]:
    """Return the top-level modules that are never hidden, since this process depends on them."""
    brought = (entry.value for group in _GROUPS for entry in entry_points(group=group))
    return {
        "__main__",
        "torch",
        "numpy",
        "normscope",
        *(value.partition(":")[0].partition(".")[0] for value in brought),
    }
