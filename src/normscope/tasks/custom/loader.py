"""A user's Python file: what it consists of, which is what makes a run new, and the function that is wanted of it."""

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from normscope.tasks.custom.imports import OwnModules
from normscope.tasks.custom.sandbox import theirs

__tracebackhide__ = True

_BEYOND = 24
"""Bits of a revision that are of what only the execution of a file shows, where there is anything."""


class UserFileChanged(ValueError):
    """The user's file is not the one that the study began with."""


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """A file and a function in it, as ``my_file.py:make`` names them."""

    path: Path
    """Absolute."""
    function: str
    """Its name."""

    @staticmethod
    def named(text: str) -> "UserFile":
        """Read a name; the file need not be there.

        Raises:
            ValueError: If the text does not name both.
        """
        file, colon, function = text.rpartition(":")
        if not colon or not function.isidentifier():
            raise ValueError(f"expected a file and a function in it, such as my_file.py:make, got {text!r}")
        return UserFile(path=Path(file).expanduser().resolve(), function=function)

    @property
    def name(self) -> str:
        """Without its folder: a study goes on wherever the file lies."""
        return f"{self.path.name}:{self.function}"

    def texts(self) -> dict[Path, bytes]:
        """Read the file and everything beside it that it imports.

        Imports are found in the text, wherever they stand in it. Data are not among them.

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
        """Give the SHA-256 of the file and of what it imports, by their names from its folder.

        That is what :meth:`texts` reads, and what this process has seen it import beyond that: from another folder, or
        by a name that is no text. What lies outside its folder has the module's name.

        Raises:
            LookupError: If there is no such file.
        """
        beyond = {path: name for path, name in _IMPORTED.get(self, {}).items() if path.is_file()}
        return {**self._digests(self.texts()), **{name: _digest(path.read_bytes()) for path, name in beyond.items()}}

    def version(self, modules: OwnModules) -> tuple[dict[str, str], int]:
        """Give the hashes and the revision of what was executed, and keep in mind what the text does not show."""
        _IMPORTED[self] = dict(modules.imported)
        shown = {path: text for path, text in modules.texts.items() if path not in modules.imported}
        beyond = {name: _digest(modules.texts[path]) for path, name in modules.imported.items()}
        hashes = self._digests(shown)
        return {**hashes, **beyond}, revision_of(hashes, beyond)

    def expect(self, revision: int) -> None:
        """Refuse a file that is not what it was; without executing it, as far as its text shows.

        Raises:
            UserFileChanged: If it is another one, or gone.
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

    def load(self, modules: OwnModules | None = None) -> Callable[..., Any]:
        """Execute the file anew, with what it imports that is the user's, and give the function.

        Args:
            modules: What it consists of; what lies there now where None.

        Raises:
            LookupError: If there is no such function; the message suggests the nearest name.
            UserCodeError: If the file fails.
            TypeError: If the function does not take norm, placement and seed.
        """
        module = self._import(OwnModules(self.path, self.texts()) if modules is None else modules)
        function = getattr(module, self.function, None)
        if not callable(function):
            mine = [name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__]
            there = [name for name in mine if inspect.isfunction(getattr(module, name))]
            near = get_close_matches(self.function, there, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            told = f"It has {', '.join(there)}" if there else "It has none"
            raise LookupError(f"{self.path.name} has no function {self.function!r}: {hint}{told}")
        try:
            signature = inspect.signature(function)
            signature.bind(None, None, 0, **({"split": "study"} if "split" in signature.parameters else {}))
        except TypeError as error:
            raise TypeError(f"{self.name} must take norm, placement and seed: {error}") from error
        return function

    def _import(self, modules: OwnModules) -> ModuleType:
        key = f"normscope_own_{hashlib.sha256(str(self.path).encode()).hexdigest()[:16]}"
        found = importlib.util.spec_from_file_location(key, self.path)
        assert found is not None
        module = importlib.util.module_from_spec(found)
        folder = self.path.parent
        # As when the file is run: what stands beside it can be imported, and comes first.
        sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
        with modules.present():
            sys.modules[key] = module
            modules.names.add(key)
            with theirs(self.name):
                exec(compile(modules.texts[self.path], str(self.path), "exec"), vars(module))
        return module

    def _beside(self, path: Path, content: bytes) -> Iterator[Path]:
        """List the files in this one's folder, or below it, that a file imports."""
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError):
            # It is told where it is imported, as theirs.
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
            # A file may lie beside the package itself, in a checkout.
            yield from (found for name in names if name.split(".")[0] != "normscope" for found in _files(folder, name))


_IMPORTED: dict[UserFile, dict[Path, str]] = {}
"""What this process has seen files import that their text does not show, and its names."""


def _files(folder: Path, name: str) -> Iterator[Path]:
    """List the files that are read where a module of this name is imported from a folder: its packages and itself."""
    here = folder
    for part in name.split("."):
        here = here / part
        for file in (here / "__init__.py", here.with_name(f"{here.name}.py")):
            if part and file.is_file():
                yield file


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def revision_of(hashes: Mapping[str, str], beyond: Mapping[str, str] | None = None) -> int:
    """Give the number of a version: below 2^48, so that every reader of JSON keeps it exact.

    Args:
        hashes: Of the files that the text shows.
        beyond: Of those that only the execution shows. Where there are any, the upper half of the number is of the
            others alone, so that a file which was edited is known before it is executed.
    """
    shown = _number(hashes)
    return (shown >> _BEYOND << _BEYOND) | (_number({**hashes, **beyond}) >> _BEYOND) if beyond else shown


def _number(hashes: Mapping[str, str]) -> int:
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return int(_digest(text.encode())[:12], 16)
