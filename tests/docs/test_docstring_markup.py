"""Docstrings reach the site in Markdown: equations, roles and tables."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

griffe = pytest.importorskip("griffe", reason="griffe is not here; ./run test installs it")
ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "normscope").rglob("*.py"))


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstring_markup", ROOT / "docs" / "scripts" / "docstring_markup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MARKUP = load()


@pytest.mark.parametrize(
    "text",
    ["First.\n\n.. math:: a = \\frac{b}{c}\n\nLast.", "First.\n\n.. math::\n\n    a =\n    \\frac{b}{c}\n\nLast."],
    ids=["on its line", "below it"],
)
def test_an_equation_becomes_mathml(text: str) -> None:
    first, equation, last = MARKUP.to_markdown(text).split("\n\n", 2)
    assert (first, last.strip()) == ("First.", "Last.")
    assert equation.startswith("<math ")
    assert "<mfrac><mrow><mi>b</mi></mrow><mrow><mi>c</mi></mrow></mfrac>" in equation


def test_an_equation_within_a_line_stays_there() -> None:
    text = MARKUP.to_markdown("With :math:`x^2` small.")
    assert text.startswith("With <math ")
    assert text.endswith("</math> small.")


def test_roles_become_code() -> None:
    assert MARKUP.to_markdown("See :func:`~normscope.swap` and :class:`Trial`.") == "See `normscope.swap` and `Trial`."


def test_a_table_becomes_markdown_and_a_row_may_go_on() -> None:
    text = "====  =====\nname  value\n====  =====\na     one\n      more\nb     two\n====  ====="
    assert MARKUP.to_markdown(text) == "| name | value |\n| --- | --- |\n| a | one more |\n| b | two |"


def test_an_example_becomes_a_section_that_griffe_shows_as_code() -> None:
    text = MARKUP.to_markdown("First.\n\nExample:\n    >>> 1 + 1\n    2\n    >>> [3]\n    [3]")
    sections = griffe.Docstring(text, parser="google").parse()
    assert [section.kind.value for section in sections] == ["text", "examples"]
    assert sections[1].value == [(griffe.DocstringSectionKind.examples, ">>> 1 + 1\n2\n>>> [3]\n[3]")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_docstring_keeps_the_markup_of_sphinx(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            shown = MARKUP.to_markdown(ast.get_docstring(node) or "")
            for remnant in ("math::", ":math:`", ":func:`", ":class:`", ":data:`", ":meth:`", "===="):
                assert remnant not in shown, f"{getattr(node, 'name', path.name)} shows {remnant}"
