"""The public names, written down: whoever adds, renames or removes one changes this file, too, and the changelog."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "normscope"
SNAPSHOT = Path(__file__).with_name("public_names.txt")


def listed() -> list[str]:
    """List ``package: name`` for every name in an ``__all__`` of the package."""
    lines = []
    for path in sorted(PACKAGE.rglob("__init__.py")):
        package = ".".join(["normscope", *path.parent.relative_to(PACKAGE).parts])
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                lines += [f"{package}: {name}" for name in ast.literal_eval(node.value)]
    return sorted(lines)


def test_public_names_are_those_of_the_snapshot() -> None:
    names, wanted = set(listed()), set(SNAPSHOT.read_text(encoding="utf-8").split("\n")) - {""}
    changes = [f"+ {name}" for name in sorted(names - wanted)] + [f"- {name}" for name in sorted(wanted - names)]
    assert not changes, "edit tests/public_names.txt and CHANGELOG.md:\n" + "\n".join(changes)
