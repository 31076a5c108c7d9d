"""Python imports this at the start of a child process that has this folder on PYTHONPATH.

It makes the child use the miniatures of the parent's data sets, as soon as the child imports the data sets at all.
"""

import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from small_sets import VARIABLE, miniatures

HOME = "normscope.data.registry"


class _Loader:
    """Runs the module's own loader, and exchanges the sets that have a miniature."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        module.SETS.update(miniatures(module.SETS, Path(os.environ[VARIABLE])))  # pyright: ignore


class _Finder:
    """Finds that one module as Python itself does, with the loader above."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == HOME else None
        if spec is not None:
            spec.loader = _Loader(spec.loader)  # pyright: ignore
        return spec


if VARIABLE in os.environ:
    sys.meta_path.insert(0, _Finder)  # pyright: ignore
