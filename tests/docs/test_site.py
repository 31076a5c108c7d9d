"""The site has a page for every package, names everything public, and keeps within the width of the code."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

import normscope

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(
    [*DOCS.glob("*.md"), *(path for part in ("guides", "tutorials", "api") for path in (DOCS / part).glob("*.md"))]
)


def test_every_page_is_in_the_navigation_once() -> None:
    class Loader(yaml.SafeLoader):
        """Reads the file without the classes that mkdocs names in it."""

    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    listed = re.findall(r"'([\w./-]+\.md)'", str(config["nav"]))
    assert sorted(listed) == sorted({*listed})
    pages = [*WRITTEN, *(DOCS / "results").rglob("*.md")]
    assert {str(path.relative_to(DOCS)) for path in pages} == {*listed}
    assert config["strict"] is True


def test_every_package_has_a_page_of_its_reference() -> None:
    packages = {name for name in normscope.__all__ if inspect.ismodule(getattr(normscope, name))} | {"errors"}
    assert packages == {path.stem for path in (DOCS / "api").glob("*.md")} - {"index"}
    for name in packages:
        page = (DOCS / "api" / f"{name}.md").read_text(encoding="utf-8")
        assert f"\n::: normscope.{name}\n" in page
        # Griffe takes such a name for the module, so that its page has to name the function.
        module = importlib.import_module(f"normscope.{name}")
        inside = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
        for public in inside & {*getattr(module, "__all__", ())}:
            assert f"\n::: {getattr(module, public).__module__}.{public}\n" in page


def test_the_reference_names_everything_public() -> None:
    page = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    named = re.findall(r"\[`(\w+)`\]\[normscope\.(\w+)\.(?:\w+\.)*(\w+)\]", page)
    assert all(shown == meant for shown, _, meant in named)
    public = {name for name in normscope.__all__ if not inspect.ismodule(getattr(normscope, name))} - {"__version__"}
    assert {shown for shown, _, _ in named} == public
    for shown, home, _ in named:
        assert getattr(normscope, shown).__module__.split(".")[1] == home


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(DOCS)))
def test_lines_are_wrapped_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|^---\n.*?\n---\n", "", text, flags=re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")]
    assert long == []
    for target in re.findall(r"(?<!`)\]\((?!https?:)([^)#]+)", re.sub(r"`[^`\n]*`", "code", prose)):
        assert (page.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize("page", [*WRITTEN, ROOT / "README.md"], ids=lambda page: page.stem)
def test_code_on_the_pages_is_python_and_uses_public_names(page: Path) -> None:
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for _, block in blocks:
        tree = ast.parse(textwrap.dedent(block))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "normscope":
                assert hasattr(normscope, node.attr), f"normscope.{node.attr}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("normscope"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_layer_on_the_first_page_computes() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    (block,) = re.findall(r'=== "A layer"\n\n    ```python\n(.*?)    ```', page, re.DOTALL)
    space: dict = {}
    exec(textwrap.dedent(block), space)
    assert (space["y"].shape, space["y"].dtype) == ((8, 128, 512), torch.float32)
