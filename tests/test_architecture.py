"""Who may import whom, and that every module has its test: the plan of the house, enforced."""

import ast
from pathlib import Path

import pytest

import normscope

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "normscope"

MAY_IMPORT = {
    "torch_internals": set(),
    "kernels": {"torch_internals"},
    "norms": {"kernels", "torch_internals"},
    "models": set(),
    "data": set(),
    "version": set(),
    "recognition": {"torch_internals"},
    "probes": {"norms", "recognition", "torch_internals"},
    "results": set(),
    "placement": {"norms"},
    "tasks": {"models", "data", "torch_internals"},
    "catalogue": {"norms", "placement", "tasks", "data", "probes", "plugins"},
    "names": {"catalogue", "placement"},
    "plugins": set(),
    "template": {"tasks"},
    "train": {"tasks", "results", "probes", "version", "kernels", "torch_internals"},
    "report": {"results"},
    "study": {"catalogue", "names", "placement", "tasks", "train", "probes", "results", "report", "data"},
    "papers": {"catalogue", "study", "results", "report", "data", "tasks", "models", "train"},
    "reproduce": {"papers", "catalogue", "study", "display", "progress"},
    "examine": {"catalogue", "study", "results", "report", "data", "display", "progress"},
    "swapping": {"kernels", "norms", "recognition", "catalogue", "names", "torch_internals"},
    "doctor": {"data", "kernels"},
    "arguments": set(),
    "bench": {"catalogue", "kernels"},
    "display": {"results"},
    "progress": set(),
    "cli": {
        *("catalogue", "study", "results", "report", "display", "progress", "data", "doctor", "bench", "arguments"),
        *("reproduce", "examine"),
    },
    "__init__": {"norms", "probes", "results", "study", "swapping", "tasks", "version"},
    "__main__": {"cli"},
}
"""From a part to the parts it may import; lazy imports count, too."""

WITHOUT_TORCH = {"results", "report", "data", "display", "progress", "cli", "doctor"}
"""Parts that must work where torch is missing, or before it is needed."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Name the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """List the parts of our own package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            # What the public face gives belongs to the part that it takes it from.
            faces = [normscope._HOME.get(alias.name, alias.name) for alias in node.names]
            names = [f"normscope.{face}" for face in faces] if module == "normscope" else [module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("normscope.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_part_may(path: Path) -> None:
    part = part_of(path)
    others = imports(path) - {part}
    assert others <= MAY_IMPORT[part], f"{part} may not import {others - MAY_IMPORT[part]}"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part_of(path) in WITHOUT_TORCH],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_module_does_not_import_torch_at_the_top(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "torch" for name in names)


def private_names(path: Path) -> set[str]:
    """List the names with one leading underscore that a file imports, or reads from another object than ``self``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_torchs_private_names_are_used_in_one_file() -> None:
    internals = PACKAGE / "torch_internals.py"
    torchs = private_names(internals)
    assert {"_parameters", "_forward_hooks", "_C", "_WrappedHook", "_orig_mod"} <= torchs
    elsewhere = {str(path.relative_to(PACKAGE)): private_names(path) & torchs for path in MODULES if path != internals}
    assert not {path: names for path, names in elsewhere.items() if names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_reads_no_private_name_of_torch(path: Path) -> None:
    if path == PACKAGE / "torch_internals.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        assert not [name for name in names if name.startswith("torch.") and "._" in name.replace(".__", ".")]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name != "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_module_has_its_test(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    test = ROOT / "tests" / relative.parent / f"test_{relative.name}"
    assert test.exists(), f"{relative} has no test: write {test.relative_to(ROOT)}"


def test_no_two_tests_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"pytest imports tests by their file's name, and there are several {twice}"


def test_tree_in_readme_names_every_part() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [part for part in MAY_IMPORT if part != "__init__" and part not in readme]
    assert not missing, f"the tree in README.md leaves out {missing}"


def test_every_part_has_a_rule() -> None:
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)
