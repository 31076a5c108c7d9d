"""A user's Python file: its source files, the revision computed from them, and its function."""

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from normscope.errors import NormscopeError
from normscope.tasks.custom.imports import UserModules, has_distribution
from normscope.tasks.custom.sandbox import user_code

__tracebackhide__ = True

_BEYOND = 24
"""Number of bits of a revision that hash the imports found only by executing the file, if there are any."""


class UserFileChanged(NormscopeError, ValueError):
    """The user's file was changed after the study began."""


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """A file and a function in it, as ``my_file.py:make`` names them."""

    path: Path
    """Absolute path."""
    function: str
    """Name of the function."""

    @staticmethod
    def named(text: str) -> "UserFile":
        """Parse ``my_file.py:make``; the file need not exist.

        Raises:
            ValueError: If the file or the function is missing from the text, or the file's name is not UTF-8.
        """
        file, colon, function = text.rpartition(":")
        if not colon or not function.isidentifier():
            raise ValueError(f"expected a file and a function in it, such as my_file.py:make, got {text!r}")
        path = Path(file).expanduser().resolve()
        try:
            path.name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the name of a file must be UTF-8 text, got {path.name!r}: rename it, or if this is the locale C, set "
                "PYTHONUTF8=1"
            ) from error
        return UserFile(path=path, function=function)

    @property
    def name(self) -> str:
        """``my_file.py:make`` without the folder: a study continues when the file is moved."""
        return f"{self.path.name}:{self.function}"

    def texts(self) -> dict[Path, bytes]:
        """Read the file and the files in its folder that it imports, directly or not.

        Import statements are found by parsing; data files are not included.

        Raises:
            LookupError: If there is no such file.
        """
        if not self.path.is_file():
            raise LookupError(f"there is no file {str(self.path)!r}")
        found: dict[Path, bytes] = {}
        waiting = [self.path]
        while waiting:
            path = waiting.pop()
            if path not in found:
                found[path] = path.read_bytes()
                waiting += self._beside(path, found[path])
        return found

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the file and of its imports, by path relative to its folder.

        Covers :meth:`texts` and the imports that this process has seen when executing the file: from another folder,
        or by a computed name. Modules outside the folder are listed by module name.

        Raises:
            LookupError: If there is no such file.
        """
        beyond = {path: name for path, name in _IMPORTED.get(self, {}).items() if path.is_file()}
        return {**self._digests(self.texts()), **{name: _digest(path.read_bytes()) for path, name in beyond.items()}}

    def version(self, modules: UserModules) -> tuple[dict[str, str], int]:
        """Return the hashes and the revision of the executed files, and remember imports found only by execution."""
        _IMPORTED[self] = dict(modules.imported)
        shown = {path: text for path, text in modules.texts.items() if path not in modules.imported}
        beyond = {name: _digest(modules.texts[path]) for path, name in modules.imported.items()}
        hashes = self._digests(shown)
        return {**hashes, **beyond}, revision_of(hashes, beyond)

    def expect(self, revision: int) -> None:
        """Compare the file with a revision, without executing it.

        Raises:
            UserFileChanged: If the file differs or is missing.
        """
        if self.path.is_file():
            shown = self._digests(self.texts())
            beyond = {name: digest for name, digest in self.hashes().items() if name not in shown}
            now = revision_of(shown, beyond)
            if now == revision or (self not in _IMPORTED and now >> _BEYOND == revision >> _BEYOND):
                return
        raise UserFileChanged(
            f"{self.path}, or what it imports, was changed after the study began: put it back to go on, or begin "
            "another study with it"
        )

    def _digests(self, texts: Mapping[Path, bytes]) -> dict[str, str]:
        names = {path.relative_to(self.path.parent).as_posix(): text for path, text in texts.items()}
        return {name: _digest(names[name]) for name in sorted(names)}

    def load(self, modules: UserModules | None = None) -> Callable[..., Any]:
        """Execute the file and the user's modules it imports again, and return the function.

        Args:
            modules: Source texts of the file and its imports; read from disk if None.

        Raises:
            LookupError: If the function does not exist; the message suggests the nearest name.
            UserCodeError: If the file fails.
            TypeError: If the function does not take norm, placement and seed.
        """
        module = self._import(UserModules(self.path, self.texts()) if modules is None else modules)
        function = getattr(module, self.function, None)
        if not callable(function):
            defined = [
                name for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__
            ]
            functions = [name for name in defined if inspect.isfunction(getattr(module, name))]
            near = get_close_matches(self.function, functions, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = f"it defines {', '.join(functions)}" if functions else "it defines no functions"
            raise LookupError(f"{self.path.name} has no function {self.function!r}: {hint}{listed}")
        try:
            signature = inspect.signature(function)
            signature.bind(None, None, 0, **({"split": "study"} if "split" in signature.parameters else {}))
        except TypeError as error:
            raise TypeError(f"{self.name} must take norm, placement and seed: {error}") from error
        return function

    def _import(self, modules: UserModules) -> ModuleType:
        key = f"normscope_custom_{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        found = importlib.util.spec_from_file_location(key, self.path)
        assert found is not None
        module = importlib.util.module_from_spec(found)
        folder = self.path.parent
        # As when the file is run as a script: its folder comes first on the path.
        sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
        with modules.present():
            sys.modules[key] = module
            modules.names.add(key)
            with user_code(self.name):
                exec(compile(modules.texts[self.path], str(self.path), "exec"), vars(module))
        return module

    def _beside(self, path: Path, content: bytes) -> Iterator[Path]:
        """Yield the files in the folder of the user's file, or below it, that a file imports."""
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            # The import itself reports the syntax error, as an error of the user's code.
            return
        folder = self.path.parent
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = path.parents[min(node.level, len(path.parents)) - 1] if node.level else folder
                if not above.is_relative_to(folder):
                    continue
                module = ".".join([*above.relative_to(folder).parts, *([node.module] if node.module else [])])
                names = [module, *(f"{module}.{alias.name}" if module else alias.name for alias in node.names)]
            else:
                continue
            # In a checkout the file may lie in the folder of the package itself.
            ours = (name for name in names if name.split(".")[0] != "normscope")
            yield from (found for name in ours for found in _files(folder, name) if not has_distribution(found))


_IMPORTED: dict[UserFile, dict[Path, str]] = {}
"""Imports of each file that this process found only by executing it: path to module name."""


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files that are read when a module is imported from a folder: its packages and the module."""
    here = folder
    for part in name.split("."):
        here = here / part
        for file in (here / "__init__.py", here.with_name(f"{here.name}.py")):
            if part and file.is_file():
                yield file


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def revision_of(hashes: Mapping[str, str], beyond: Mapping[str, str] | None = None) -> int:
    """Compute the revision of a set of files: below 2^48, so that every JSON reader keeps it exact.

    Args:
        hashes: Hashes of the files found by parsing.
        beyond: Hashes of the imports found only by executing the file. If there are any, the upper half of the number
            depends on ``hashes`` alone, so that an edited file is recognized before it is executed.
    """
    shown = _number(hashes)
    return (shown >> _BEYOND << _BEYOND) | (_number({**hashes, **beyond}) >> _BEYOND) if beyond else shown


def _number(hashes: Mapping[str, str]) -> int:
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return int(_digest(text.encode())[:12], 16)
