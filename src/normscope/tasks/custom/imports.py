"""The modules that came with a user's file: their text as it was first read, executed anew for every run."""

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

__tracebackhide__ = True

_PACKAGE = Path(__file__).resolve().parents[2]
_INSTALLED = tuple(
    f"{Path(sysconfig.get_path(name))}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_GROUPS = ("normscope.norms", "normscope.placements", "normscope.tasks", "normscope.probes")


class LateImport(Exception):
    """A module that the revision of a user's file does not cover."""


class OwnModules(MetaPathFinder):
    """Imports what is the user's: neither installed nor ours, wherever it lies.

    Every run has modules of its own, so that nothing that one leaves in them reaches the next. All are made of the text
    that was read first: a study keeps what it began with while files are edited.

    Args:
        file: The user's file.
        texts: What it is known to consist of.
    """

    def __init__(self, file: Path, texts: Mapping[Path, bytes]) -> None:
        self.folder = f"{file.parent}{os.sep}"
        self.texts = dict(texts)
        self.imported: dict[Path, str] = {}
        """What else was imported, and under which name."""
        self.modules: dict[str, ModuleType] = {}
        """Of this run, while it is away."""
        self.names: set[str] = set()
        """Of all that are this run's."""
        self.open = True
        """Whether what is not known yet may be imported."""

    def anew(self) -> "OwnModules":
        """Give the same texts for another run, and no others."""
        other = copy(self)
        other.modules, other.names, other.open = {}, set(), False
        return other

    @contextmanager
    def present(self) -> Iterator[None]:
        """Let this run's modules be the ones that are imported inside; others of their files are away meanwhile."""
        if self in sys.meta_path:
            yield
            return
        spared = _spared()
        hidden = {
            name: module
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] not in spared and self._covers(module)
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
        """Find a module as Python would; one of the user's is made of the text that is kept.

        Raises:
            LateImport: If it is the user's, and imported too late for its text to count.
        """
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        found = next((spec for finder in finders if (spec := finder.find_spec(fullname, path, target))), None)
        if found is None or not any(is_theirs(place) for place in _places(found)):
            return found
        if found.origin is not None and found.origin.endswith(".py"):
            found.loader = _Kept(fullname, found.origin, self._text(Path(os.path.abspath(found.origin)), fullname))
            self.names.add(fullname)
        elif found.origin is None:
            # A folder without __init__.py: it remembers the modules in it.
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
        """Whether a module that is there already is one of the user's, of other times."""
        if not isinstance(module, ModuleType):
            return False
        spec = module.__dict__.get("__spec__")
        places = _places(spec) if isinstance(spec, ModuleSpec) else []
        return any(
            Path(place) in self.texts or (place.startswith(self.folder) and is_theirs(place)) for place in places
        )


class _Kept(SourceFileLoader):
    """Executes a text that was read before; nothing compiled is looked for, or written."""

    def __init__(self, name: str, path: str, text: bytes) -> None:
        super().__init__(name, path)
        self.text = text

    def get_data(self, path: str) -> bytes:
        """Give the text."""
        return self.text

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Say that there is no time to know compiled text by.

        Raises:
            OSError: Always.
        """
        raise OSError


def is_theirs(place: str) -> bool:
    """Whether a file or folder is the user's: not of Python, not installed, not ours."""
    path = Path(os.path.abspath(place))
    if {"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_PACKAGE):
        return False
    return not str(path).startswith(_INSTALLED)


def _places(spec: ModuleSpec) -> list[str]:
    """Give the file of a module, or the folders of one that has none."""
    if spec.origin is not None:
        return [spec.origin] if spec.has_location else []
    return list(spec.submodule_search_locations or ())


def _spared() -> set[str]:
    """List what stays even where it lies beside a user's file: this process itself rests on it."""
    brought = (entry.value for group in _GROUPS for entry in entry_points(group=group))
    return {
        "__main__",
        "torch",
        "numpy",
        "normscope",
        *(value.partition(":")[0].partition(".")[0] for value in brought),
    }
