"""A package of somebody else's, as pip leaves it in a folder: the one that docs/guides/custom.md shows."""

import re
import tomllib
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "custom.md"


def file_in_page(name: str) -> str:
    """Give the code block of the page that begins with the name of a file."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"```\w+\n# {re.escape(name)}\n(.*?)```", text, flags=re.DOTALL)
    return found


def install(folder: Path, name: str, entries: dict[str, dict[str, str]], **modules: str) -> Path:
    """Lay modules and the metadata of a package into a folder, which then belongs on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    metadata = folder / f"{name.replace('-', '_')}-0.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.2\n")
    groups = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries[group].items()) for group in entries
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return folder


def install_the_pages(folder: Path) -> Path:
    """Lay the page's package into a folder."""
    project = tomllib.loads(file_in_page("pyproject.toml"))["project"]
    return install(folder, project["name"], project["entry-points"], gentle_norms=file_in_page("gentle_norms.py"))
