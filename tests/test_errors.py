"""Every exception of the package is caught under NormscopeError, and under its standard base."""

import ast
import builtins
from pathlib import Path

import normscope
from normscope.errors import NormscopeError
from normscope.studies import ArmMisfit, EngineError, StudyMismatch

PACKAGE = Path(normscope.__file__).parent
STANDARD = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
}


def exceptions() -> dict[str, set[str]]:
    """List the classes with a standard exception among their bases, with all of their bases."""
    classes = {
        f"{path.relative_to(PACKAGE)}: {node.name}": {ast.unparse(base) for base in node.bases}
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    return {name: bases for name, bases in classes.items() if bases & STANDARD}


def test_every_exception_class_has_the_common_base() -> None:
    classes = exceptions()
    assert classes.pop("errors.py: NormscopeError") == {"Exception"}
    assert len(classes) > 5
    assert not {name for name, bases in classes.items() if "NormscopeError" not in bases}


def test_exceptions_of_studies_keep_their_standard_base() -> None:
    for kind, base in ((StudyMismatch, ValueError), (ArmMisfit, ValueError), (EngineError, RuntimeError)):
        assert issubclass(kind, NormscopeError)
        assert issubclass(kind, base)
