"""Import of a user's modules: executed again for every run, from the source text that was read first."""

import importlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
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
        never = _never_hidden()
        hidden = {
            name: module
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] not in never and self._covers(module)
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

        Raises:
            LateImport: If it is a module of the user's that is not part of the revision.
        """
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        found = next((spec for finder in finders if (spec := finder.find_spec(fullname, path, target))), None)
        if found is None or not any(is_user_file(place) for place in _places(found)):
            return found
        if found.origin is not None and found.origin.endswith(".py"):
            found.loader = _StoredTextLoader(
                fullname, found.origin, self._text(Path(os.path.abspath(found.origin)), fullname)
            )
            self.names.add(fullname)
        elif found.origin is None:
            # A namespace package keeps references to its modules.
            self.names.add(fullname)
        return found

    def _text(self, path: Path, name: str) -> bytes:
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

    def __init__(self, name: str, path: str, text: bytes) -> None:
        super().__init__(name, path)
        self.text = text

    def get_data(self, path: str) -> bytes:
        """Return the text."""
        return self.text

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
    return not str(path).startswith(_INSTALLED)


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
