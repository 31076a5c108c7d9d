"""Every placement and recurrent cell has a drawing, and the drawings are those that the scripts make."""

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

import normscope
from normscope.placement import PLACEMENTS
from normscope.recurrent import PLACES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load("draw_placements")
sys.modules["draw_placements"] = SCRIPT
CELLS = load("draw_cells")


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


@pytest.mark.parametrize(("cell", "name"), [(cell, name) for cell, names in PLACES.items() for name in names])
def test_a_cell_is_drawn_with_the_norms_of_its_layer(cell, name: str) -> None:
    file = CELLS.file_of(cell, name)
    drawn = (DOCS / "drawings" / "cells" / file).read_text(encoding="utf-8")
    assert drawn == CELLS.draw(cell, name)
    root = ElementTree.fromstring(drawn)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == root.get("aria-label")
    assert "prefers-color-scheme: dark" in drawn
    layer = getattr(normscope, cell)(4, 8, places=name)
    assert drawn.count('class="norm"') == sum(isinstance(part, normscope.LayerNorm) for part in layer.modules())
    page = (DOCS / "guides" / "recurrent.md").read_text(encoding="utf-8")
    assert page.count(f"(../drawings/cells/{file})") == 1


def test_no_cell_is_drawn_that_is_not_there() -> None:
    files = {CELLS.file_of(cell, name) for cell, names in PLACES.items() for name in names}
    assert {path.name for path in (DOCS / "drawings" / "cells").iterdir()} == files
