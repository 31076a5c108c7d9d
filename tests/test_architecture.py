"""The plan of the house, enforced: who may import whom, sizes, names, and a test of every public name."""

import ast
import re
import statistics
from pathlib import Path

import pytest

import normscope

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "normscope"

MAY_IMPORT = {
    "version": set(),
    "errors": set(),
    "registry": set(),
    "arguments": set(),
    "files": set(),
    "npy": set(),
    "fits": set(),
    "torch_internals": set(),
    "kernels": set(),
    "norms": {"kernels"},
    "placement": {"norms"},
    "recurrent": {"norms", "kernels", "specs"},
    "inspection": {"norms", "kernels"},
    "diagnostics": {"inspection", "norms", "fits", "recurrent"},
    "analysis": {"inspection", "norms", "diagnostics", "fits"},
    "models": {"recurrent"},
    "data": set(),
    "tasks": {"models", "data", "results"},
    "specs": {"norms", "placement", "tasks"},
    "surgery": {"inspection", "norms", "kernels", "recurrent", "specs"},
    "results": set(),
    "training": {"tasks", "results", "diagnostics", "version", "kernels"},
    "report": {"results"},
    "studies": {"specs", "norms", "placement", "tasks", "training", "diagnostics", "results", "report", "data"},
    "papers": {
        *("norms", "placement", "studies", "results", "report", "data", "tasks", "models", "training", "fits"),
        "analysis",
    },
    "cli": {
        *("norms", "kernels", "placement", "diagnostics", "data", "tasks", "specs", "studies", "results", "report"),
        *("papers", "surgery"),
    },
    "__init__": {
        *("analysis", "data", "diagnostics", "inspection", "kernels", "models", "norms", "papers", "placement"),
        *("recurrent", "report", "results", "specs", "studies", "surgery", "tasks", "training", "version"),
    },
    "__main__": {"cli"},
}
"""From a part to the parts it may import; lazy imports count, too."""

EVERYWHERE = {"arguments", "errors", "files", "npy", "registry", "torch_internals"}
"""Parts that import nothing of ours and that every part may import."""

WITHOUT_TORCH = {"results", "report", "data"}
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
    others = imports(path) - {part} - EVERYWHERE
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


def test_tree_in_readme_names_every_part() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [part for part in MAY_IMPORT if part != "__init__" and part not in readme]
    assert not missing, f"the tree in README.md leaves out {missing}"


def test_every_part_has_a_rule() -> None:
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)


PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def exported(package: Path) -> list[str]:
    """List the names in the ``__all__`` of a package."""
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_name_is_used_in_a_test_of_its_package(package: Path) -> None:
    folder = ROOT / "tests" / package.relative_to(PACKAGE)
    words = {word for path in folder.rglob("*.py") for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    missing = set(exported(package)) - words
    assert not missing, f"no test in {folder.relative_to(ROOT)} uses {sorted(missing)}"


def test_no_public_class_name_stands_for_two_things() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_folders_and_files_have_a_size_that_a_reader_can_survey() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {str(path.relative_to(PACKAGE)): count for path, count in lines.items() if count > 400}
    assert statistics.median(lines.values()) >= 150
    for folder in {path.parent for path in MODULES}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 15 or folder == PACKAGE / "norms", f"{folder} has {len(files)} files"


def test_no_text_holds_the_marks_of_a_merge() -> None:
    texts = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "LOG.md", ROOT / "CONTRIBUTING.md"]
    texts += [path for folder in ("docs", "src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.md")]
    marks = re.compile(r"^(<{7}|>{7}|={7}$)", flags=re.M)
    assert not [str(path) for path in texts if marks.search(path.read_text(encoding="utf-8"))]


def test_every_feature_that_contributing_names_is_where_it_says() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("## Where things are")[2].partition("\n## ")[0]
    places = re.findall(r"^\| .* \| `(src/normscope/[^`]+)` \|$", table, flags=re.M)
    assert len(places) == 10
    assert all((ROOT / place).exists() for place in places)
