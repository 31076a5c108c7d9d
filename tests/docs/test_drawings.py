"""Every placement has a drawing, and the drawings are those that the script makes."""

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

from normscope.placement import PLACEMENTS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load("draw_placements")


def test_every_placement_is_drawn_and_shown() -> None:
    built_in = [name for name in PLACEMENTS if (DOCS / "drawings" / f"{name}.svg").exists()]
    assert sorted(SCRIPT.PLACEMENTS) == sorted(built_in)
    assert len(built_in) == len(list((DOCS / "drawings").glob("*.svg"))) == 17
    page = (DOCS / "guides" / "placements.md").read_text(encoding="utf-8")
    assert all(f"(../drawings/{name}.svg)" in page for name in built_in)


@pytest.mark.parametrize("name", SCRIPT.PLACEMENTS)
def test_a_drawing_is_what_the_script_makes(name: str) -> None:
    drawn = (DOCS / "drawings" / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == SCRIPT.draw(name, SCRIPT.PLACEMENTS[name])
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label", "").startswith(f"{name}:  ")
    assert "prefers-color-scheme: dark" in drawn


@pytest.mark.parametrize("name", [name for name in SCRIPT.PLACEMENTS if name not in {"preactivation", "mix"}])
def test_a_drawing_has_as_many_norms_as_its_equation(name: str) -> None:
    drawing = SCRIPT.PLACEMENTS[name]
    shown = SCRIPT.draw(name, drawing).count('class="norm"')
    # "N at both ends" stands for two, "attention with N on q, k, v" is a word of its box.
    written = (
        drawing.equation.count("N(") + ("N at the end" in drawing.equation) + 2 * ("both ends" in drawing.equation)
    )
    assert shown == written
