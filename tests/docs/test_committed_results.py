"""What is committed under docs/results can be made again from the runs that lie beside it."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from normscope.report import write_report
from normscope.report.atlas import read_atlas
from normscope.report.atlas.page import render
from normscope.results import summarize
from support.study_folders import unpack

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = sorted(path.parent for path in RESULTS.glob("*/study.tar.xz"))


def test_every_study_has_its_runs() -> None:
    assert STUDIES
    assert {path.parent for path in RESULTS.glob("*/summary.json")} == set(STUDIES)


def assert_equal(found: Any, committed: Any) -> None:
    """Compare field by field; a sum of a few thousand float64 may be ordered otherwise on another machine."""
    if isinstance(committed, dict):
        assert found.keys() == committed.keys()
        for key, value in committed.items():
            assert_equal(found[key], value)
    elif isinstance(committed, list):
        assert len(found) == len(committed)
        for ours, theirs in zip(found, committed, strict=True):
            assert_equal(ours, theirs)
    else:
        assert found == (pytest.approx(committed, rel=1e-9) if isinstance(committed, float) else committed)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_runs_give_the_committed_numbers(study: Path, tmp_path: Path) -> None:
    unpack(study / "study.tar.xz", tmp_path)
    found = summarize(tmp_path)
    committed = json.loads((study / "summary.json").read_text())
    assert found.complete
    assert_equal(json.loads(json.dumps(found.to_dict())), committed)
    with (study / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [arm["label"] for arm in committed["arms"]]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_paragraph_has_the_numbers_of_the_study(study: Path) -> None:
    text = (study / "README.md").read_text()
    for arm in json.loads((study / "summary.json").read_text())["arms"]:
        line = next(line for line in text.splitlines() if line.startswith(f"| {arm['label']} |"))
        assert f"| {arm['mean']:.2f} |" in line
        if arm["interval"]:
            low, high = arm["interval"]
            assert f"{arm['difference']:+.2f}, {low:+.2f} to {high:+.2f}" in line
            assert f"| {arm['p_adjusted']:.3f} |" in line
            assert arm["verdict"] in line


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_the_runs_give_the_committed_page(study: Path, tmp_path: Path) -> None:
    unpack(study / "study.tar.xz", tmp_path)
    for name in ("summary.json", "summary.csv"):
        shutil.copy(study / name, tmp_path)

    def without_figures(path: Path) -> str:
        # Another matplotlib may draw a line otherwise.
        return re.sub(r"<svg[^>]* role=.*?</svg>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)

    assert without_figures(write_report(tmp_path)) == without_figures(study / "report.html")


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_variant_that_all_arms_have_is_named(study: Path) -> None:
    variants = {arm.get("variant") for arm in json.loads((study / "summary.json").read_text())["arms"]}
    said = re.findall(r"Variant of the task, in every arm</dt><dd>(\w[\w.]*)<", (study / "report.html").read_text())
    assert said == ([*variants] if len(variants) == 1 and None not in variants else [])


def test_the_atlas_is_that_of_the_committed_studies() -> None:
    """It is made again by ``./run atlas docs/results``."""
    assert (RESULTS / "atlas.html").read_text(encoding="utf-8") == render(read_atlas(RESULTS))
