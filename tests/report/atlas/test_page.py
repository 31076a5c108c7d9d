"""The page of the atlas: its cells, its links, and what a hostile summary cannot do to it."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from normscope.report.atlas import read_atlas, write_atlas
from normscope.report.atlas.page import render
from normscope.report.drawing.format import name_seeds
from normscope.results import read_summary

RESULTS = Path(__file__).parents[3] / "docs" / "results"
VOID = {"meta", "link", "br", "wbr"}


@dataclass
class _Cell:
    text: str = ""
    entries: int = 0


@dataclass
class _Page(HTMLParser):
    """Collects what a browser would make of the page, by the standard library's parser."""

    open: list[str] = field(default_factory=list)
    cells: list[_Cell] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    inside: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append((tag, known))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td" and (inside := "data-column" in known):
            self.cells.append(_Cell())
        self.inside = inside if tag == "td" else self.inside
        if known.get("class") == "entry":
            self.cells[-1].entries += 1
        if tag == "a":
            self.links.append(known["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text += data
        if "td" in self.open and self.inside:
            self.cells[-1].text += data


def parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    return page


@pytest.fixture(scope="module")
def page() -> _Page:
    return parse(render(read_atlas(RESULTS)))


def test_the_page_is_well_formed_and_loads_nothing(page: _Page) -> None:
    assert page.open == []
    addresses = [value or "" for _, known in page.tags for name, value in known.items() if name in ("src", "href")]
    assert [each for each in addresses if re.match(r"\w+:", each) and not each.startswith("data:")] == []
    island, script = page.scripts
    (policy,) = [known["content"] or "" for _, known in page.tags if known.get("http-equiv")]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert json.loads(island) == json.loads(json.dumps(read_atlas(RESULTS).to_dict()))


def test_every_cell_shows_what_was_measured_and_nothing_else(page: _Page) -> None:
    atlas = read_atlas(RESULTS)
    wanted = [(norm, task) for norm in atlas.norms for task in atlas.tasks]
    assert len(page.cells) == len(wanted)
    for cell, (norm, task) in zip(page.cells, wanted, strict=True):
        assert cell.entries == len(atlas.at(norm, task))
        assert bool(cell.text) == bool(cell.entries), (norm, task)
    (worse,) = [cell.text for cell, place in zip(page.cells, wanted, strict=True) if place == ("detach_norm", "ud_ewt")]
    assert worse == (
        "ud_ewtworse−11.68 points[−11.98, −11.38]time ×0.67, memory ×1.008 pairs Details of detach_norm in ud_ewt"
        "ud_ewt_detach_normworseagainst layer_norm_simple−11.69 points[−12.60, −11.10]time ×1.28, memory ×1.0010 pairs "
        "Details of detach_norm in ud_ewt_detach_norm"
        "ud_ewt_looksworse−11.87 points[−14.23, −11.29]time ×1.26, memory ×1.0010 pairs "
        "Details of detach_norm in ud_ewt_looks"
    )
    (few,) = [cell.text for cell, place in zip(page.cells, wanted, strict=True) if place == ("none", "multi30k_de_en")]
    assert "no claim" in few
    assert "worse" not in few


def test_the_sentences_are_those_of_the_atlas(page: _Page) -> None:
    atlas = read_atlas(RESULTS)
    text = " ".join(page.text.split())
    for norm in atlas.norms:
        assert atlas.sentence(norm).replace(f"{norm}: ", f"{norm} ") in text


def test_every_link_leads_to_the_page_of_a_study_wherever_the_page_is(tmp_path: Path) -> None:
    for name in ("one", "two words", "a#b?c%20", "javascript:alert(1)", "caf\udce9"):
        shutil.copytree(RESULTS / "rt", tmp_path / "all" / name, ignore=shutil.ignore_patterns("*.xz", "*.csv"))
    (tmp_path / "away").mkdir()
    for out in (None, tmp_path / "away" / "mine.html"):
        path = write_atlas(tmp_path / "all", out)
        links = {link for link in parse(path.read_text(encoding="utf-8")).links if not link.startswith(("#", "data:"))}
        assert len(links) == 5
        assert all((path.parent / unquote(link, errors="surrogateescape")).is_file() for link in links), links
        assert not [link for link in links if re.match("javascript:", link)]


def test_a_study_without_a_page_has_no_link(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "rt", tmp_path / "rt", ignore=shutil.ignore_patterns("*.html"))
    found = parse(write_atlas(tmp_path).read_text(encoding="utf-8"))
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert "rtequivalent" in found.text


def test_hostile_text_changes_nothing(hostile_study: Path, tmp_path: Path) -> None:
    shutil.copytree(hostile_study, tmp_path / "<img src=x>", ignore=shutil.ignore_patterns("runs"))
    found = parse(write_atlas(tmp_path).read_text(encoding="utf-8"))
    assert found.open == []
    assert sum(tag == "script" for tag, _ in found.tags) == 2
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert "<script>alert(1)</script>" in found.text
    assert json.loads(found.scripts[0])["tasks"] == [json.loads((hostile_study / "summary.json").read_text())["task"]]


def test_exploratory_studies_and_their_reason_are_marked(tmp_path: Path, whole_study: Path) -> None:
    (tmp_path / "later").mkdir()
    content = json.loads((whole_study / "summary.json").read_text()) | {"changes": [6]}
    (tmp_path / "later" / "summary.json").write_text(json.dumps(content))
    assert read_summary(tmp_path / "later").caution
    found = parse(write_atlas(tmp_path).read_text(encoding="utf-8"))
    comparisons = sum(cell.text.count("exploratory") for cell in found.cells)
    assert comparisons == 2 * (len(content["arms"]) - 1)
    assert "exploratory: 4 of 10 seeds came after results could be seen" in found.text


def test_a_column_of_two_metrics_names_that_of_each_entry(tmp_path: Path) -> None:
    for name, metric in (("one", "test accuracy"), ("two", "valid accuracy")):
        (tmp_path / name).mkdir()
        text = (RESULTS / "rt" / "summary.json").read_text().replace("test accuracy", metric)
        (tmp_path / name / "summary.json").write_text(text)
    found = parse(write_atlas(tmp_path).read_text(encoding="utf-8"))
    for cell in found.cells:
        assert cell.text.count("test accuracy (%), higher is better") == 1
        assert cell.text.count("valid accuracy (%), higher is better") == 1
    (tmp_path / "two" / "summary.json").unlink()
    found = parse(write_atlas(tmp_path).read_text(encoding="utf-8"))
    assert found.text.count("test accuracy (%), higher is better") == 1


def test_seeds_are_written_as_ranges() -> None:
    assert name_seeds([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert name_seeds([5]) == "5"


def test_paths_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a path that ends with \.html"):
        write_atlas(RESULTS, tmp_path / "atlas.json")
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_atlas(RESULTS, tmp_path / "no" / "atlas.html")
    assert not list(tmp_path.iterdir())
