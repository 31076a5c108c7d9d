"""The committed pages of trained models, their JSON, and the prose above them say the same."""

import base64
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from normscope.report.diagnosis.page import render

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results" / "diagnose"
PAGES = sorted(FOLDER.glob("*.html"))


def content_of(page: Path) -> dict[str, Any]:
    return json.loads(page.with_suffix(".json").read_text())


def late(content: dict[str, Any], share: str, name: str | None = None) -> float:
    steps = content["history"][-max(len(content["history"]) // 4, 1) :]
    return 100 * median(norm[share] for step in steps for norm in step["norms"] if name in (None, norm["name"]))


def size(name: str, place: int) -> float:
    return content_of(FOLDER / f"{name}.html")["gradients"][place]["size"]


def test_the_four_kinds_are_there() -> None:
    told = {(one["setting"]["Norm"], one["setting"]["Placement"]) for one in map(content_of, PAGES)}
    assert {("layer_norm", "post"), ("layer_norm", "pre"), ("ada_norm", "pre"), ("detach_norm", "pre")} <= told
    assert all(content_of(page)["setting"]["Updates"] >= 800 for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_has_its_numbers(page: Path) -> None:
    text, content = page.read_text(encoding="utf-8"), content_of(page)
    (inside,) = re.findall(r'href="data:application/json;base64,([^"]+)"', text)
    assert json.loads(base64.b64decode(inside)) == content
    # The pictures may differ by the version of what draws them; the words may not.
    for reading in content["readings"].values():
        assert reading.split(".")[0].replace("'", "&#39;") in text
    assert len(render(content)) == pytest.approx(len(text), rel=0.1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_table_has_the_numbers_of_the_page(page: Path) -> None:
    readme, content = (FOLDER / "README.md").read_text(), content_of(page)
    row = next(line for line in readme.splitlines() if line.startswith(f"| [{page.stem}]({page.name}) |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    last, sizes = content["gradients"][-1]["name"], [norm["size"] for norm in content["gradients"]]
    assert cells[1] == f"{content['setting']['Updates']:,}"
    assert cells[2].endswith(next(value for name, value in content["setting"].items() if name.startswith("Valid")))
    assert cells[3] == f"{late(content, 'recentering'):.1f}"
    assert cells[4] == f"{late(content, 'rescaling'):.1f}"
    assert cells[5] == f"{late(content, 'rescaling', last):.1f}"
    assert cells[6] == f"{sizes[0]:.2f}, {sizes[-1]:.2f}"


def test_the_prose_has_its_figures() -> None:
    readme = " ".join((FOLDER / "README.md").read_text().split())
    assert f"to {size('digits-detach_norm', -1) / size('digits-pre', -1):.0f} times LayerNorm's deviation" in readme
    assert f"to {size('ud_ewt-detach_norm', 0) / size('ud_ewt-layer_norm', 0):.0f} times before" in readme
    assert size("rt-detach_norm", -1) < size("rt-pre", -1)
