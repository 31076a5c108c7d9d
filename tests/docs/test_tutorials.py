"""The tutorials run and print what they show, and the notebooks are made from them."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]\d+)?")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load("make_notebooks")
PAGES = SCRIPT.pages()
SLACK = {"first-comparison": 1.5}
"""How far fractions may differ beyond a tenth: the error of a run depends on the last bits of the arithmetic."""


def assert_alike(printed: str, shown: str, slack: float = 0.06) -> None:
    """Compare two texts; fractions may differ by a tenth, and those in scientific notation by a power of ten."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        bounds = {"rel": 9.0} if "e" in theirs else {"rel": 0.1, "abs": slack}
        assert float(ours) == pytest.approx(float(theirs), **bounds), f"printed {ours}, the page shows {theirs}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows(page: Path) -> None:
    if page.stem == "hugging-face":
        pytest.importorskip("transformers")
    text, threads = page.read_text(encoding="utf-8"), torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            ran = SCRIPT.run(text, page.name)
    finally:
        torch.set_num_threads(threads)
    shown = [output for _, _, output in SCRIPT.parts(text) if output is not None]
    printed = [output for _, _, output in SCRIPT.parts(ran) if output is not None]
    assert len(shown) >= 4
    assert all(shown)
    for ours, theirs in zip(printed, shown, strict=True):
        assert_alike(ours, theirs, SLACK.get(page.stem, 0.06))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_is_made_from_its_page(page: Path) -> None:
    made = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert made == SCRIPT.notebook(page.read_text(encoding="utf-8"))
    cells = json.loads(made)["cells"]
    assert {cell["cell_type"] for cell in cells} == {"markdown", "code"}
    assert not re.search(r"\]\((?!https://)", "".join("".join(cell["source"]) for cell in cells)), "a relative link"


def test_every_tutorial_is_listed() -> None:
    index = (DOCS / "tutorials" / "index.md").read_text(encoding="utf-8")
    assert len(PAGES) == 4
    for page in PAGES:
        assert f"({page.name})" in index
        assert f"({page.stem}.ipynb)" in index


def test_outputs_that_differ_in_words_or_by_more_than_a_tenth_are_seen() -> None:
    assert_alike("a 2.05 and 1.1e-15\n", "a 2.01 and 3.9e-15\n")
    for other in ("b 2.05 and 1.1e-15\n", "a 2.75 and 1.1e-15\n", "a 2.05 and 1.1e-07\n"):
        with pytest.raises(AssertionError):
            assert_alike(other, "a 2.01 and 3.9e-15\n")
