"""``--read-only`` writes nothing, and a page says how far its studies are."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from normscope.papers import PAPERS, ReproductionRequest, Setting, reproduce
from normscope.papers.judging.cell import Paper
from normscope.papers.judging.tables import markdown
from normscope.results.store import StudyFolder, write_json
from support.digits_paper import made_up
from support.study_folders import Study

pytestmark = pytest.mark.usefixtures("small_data")


def snapshot(*folders: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time and content of everything in folders, and of the folders themselves."""
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {
        str(path): (about.st_mode, about.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in paths
        for about in [path.lstat()]
    }


@pytest.fixture
def request_of(paper: Paper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ReproductionRequest:
    monkeypatch.setitem(PAPERS, paper.name, paper)
    return ReproductionRequest(paper=paper.name, only=("digits",), seeds=tuple(range(8)), out=tmp_path / "out")


def write_study(request: ReproductionRequest, **card: object) -> Study:
    study = Study(request.folder / "digits", labels=("layer_norm", "none"), seeds=range(8), **{"steps": 1000, **card})
    for arm in study.card["arms"]:
        arm["placement"] = "pre"
    study.save()
    for label, value in (("layer_norm", 3.0), ("none", 6.0)):
        for seed in study.seeds:
            study.run(label, seed, value + 0.1 * seed * (label == "none"), described={"placement": "pre"})
    return study


@pytest.mark.parametrize("state", ["whole", "half", "absent"])
def test_reading_changes_no_file_and_no_folder(
    request_of: ReproductionRequest, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "cache", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    if state != "absent":
        study = write_study(request_of)
        if state == "half":
            run = study.folder.run("none-3-0.1")
            run.result.unlink()
            run.metrics.write_text('{"step": 20')
    before = snapshot(tmp_path)
    content = reproduce(replace(request_of, read_only=True))
    assert snapshot(tmp_path) == before
    assert {cell["id"] for cell in content["cells"]} >= {"digits/none-layer_norm"}
    if state != "absent":
        # The same request that may write has the same content.
        assert content["studies"][0]["runs"][0]["planned"] == 8


def test_reading_leaves_a_line_of_the_figure_that_was_cut_short(tmp_path: Path) -> None:
    setting = Setting(layers=(1, 2), width=16, tokens=128)
    rows = [{"schema": 1, "setting": setting.id, **row} for row in made_up(setting, range(2), 0.1)]
    path = tmp_path / "gradients.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"setti')
    before = snapshot(tmp_path)
    request = ReproductionRequest(paper="xiong2020", only=("gradients",), seeds=(0, 1), out=tmp_path, gradients=setting)
    content = reproduce(replace(request, read_only=True))
    assert snapshot(tmp_path) == before
    assert content["gradients"]["seeds"] == [0, 1]


def test_reading_needs_no_folder_that_can_be_written(request_of: ReproductionRequest, tmp_path: Path) -> None:
    """A folder is not writable where a file lies in its place, for root, too."""
    (tmp_path / "file").write_text("mine")
    content = reproduce(replace(request_of, out=tmp_path / "file" / "out", read_only=True))
    assert {cell["verdict"] for cell in content["cells"]} == {"not run here"}
    assert os.listdir(tmp_path) == ["file"]


def judged(request: ReproductionRequest) -> tuple[dict, dict, str]:
    content = reproduce(replace(request, read_only=True))
    cells = {cell["id"]: cell for cell in content["cells"]}
    return cells["digits/none-layer_norm"], cells["digits/layer_norm"], markdown(content)


def test_seeds_are_planned_ones_until_their_runs_are_done(request_of: ReproductionRequest) -> None:
    study = write_study(request_of)
    assert "; seeds 0, 1, 2, 3, 4, 5, 6, 7.  " in judged(request_of)[2]
    for seed in (5, 6, 7):
        study.folder.run(f"none-{seed}-0.1").result.unlink()
    study.folder.run("layer_norm-7-0.1").result.unlink()
    page = judged(request_of)[2]
    assert "; seeds 0, 1, 2, 3, 4, 5, 6, 7 planned; runs that are done: layer_norm 7 of 8, none 5 of 8.  " in page


@pytest.mark.parametrize("lost", [1, 8])
def test_runs_without_a_score_are_said_to_be_that(request_of: ReproductionRequest, lost: int) -> None:
    study = write_study(request_of)
    for seed in range(lost):
        study.run("none", seed, state="unscored", described={"placement": "pre"})
    difference, _, page = judged(request_of)
    assert f"{lost} of the pairs could not be scored" in difference["because"]
    for words in ("diverge", "fails to train", "could not be computed"):
        assert words not in page
    study.run("none", 0, state="failed", described={"placement": "pre"})
    words = judged(request_of)[0]["because"]
    assert "1 of the pairs could not be computed" in words
    assert ("could not be scored" in words) is (lost > 1)


def test_a_figure_without_runs_says_how_they_ended(request_of: ReproductionRequest) -> None:
    study = write_study(request_of)
    for seed in study.seeds:
        study.run("layer_norm", seed, state="unscored" if seed else "diverged", described={"placement": "pre"})
    difference, value, _ = judged(request_of)
    assert value["because"] == "no run has a value: fails to train in 1 seeds; could not be scored in 7 seeds"
    assert "every run of the baseline diverged" not in difference["because"]


def test_a_figure_of_shares_stays_within_them(request_of: ReproductionRequest) -> None:
    study = write_study(request_of)
    for seed in study.seeds:
        study.run("layer_norm", seed, 0.0 if seed else 9.0, described={"placement": "pre"})
        study.run("none", seed, 100.0 * (seed > 3), described={"placement": "pre"})
    difference, value, _ = judged(request_of)
    assert value["interval"][0] == 0.0
    assert value["interval"][1] > 1.125
    assert difference["interval"] is None or max(map(abs, difference["interval"])) <= 100


def test_a_study_with_later_seeds_decides_nothing_without_saying_so(request_of: ReproductionRequest) -> None:
    write_study(request_of)
    difference, _, page = judged(request_of)
    assert difference["verdict"] == "reproduced"
    assert "xploratory" not in page
    card = StudyFolder(request_of.folder / "digits").card
    write_json(card, json.loads(card.read_text()) | {"changes": [6]})
    difference, _, page = judged(request_of)
    words = "exploratory: 2 of 8 seeds came after results could be seen"
    assert difference["because"].endswith(words)
    assert f"**{words.capitalize()}**.  " in page
    counted = next(line for line in page.splitlines() if line.startswith("| no norm is worse"))
    assert "1 of their studies are exploratory" in counted
    # So is a plan of looks that was changed at one of them.
    content = {key: value for key, value in json.loads(card.read_text()).items() if key != "changes"}
    plans = {"looks": {"pairs": [6, 7, 8], "spending": "pocock"}}
    write_json(card, content | plans | {"continues": {"pairs": [6, 7], "spending": "pocock", "seen": 6}})
    assert judged(request_of)[0]["because"].endswith("exploratory: the plan of 7 seeds was changed after 6")


def test_a_command_with_backticks_is_still_code() -> None:
    content = {"title": "T", "stand_ins": {}, "studies": [], "cells": [], "gradients": None, "not_drawn": ""}
    assert "Made by `` normscope --out '`x`' ``." in markdown({**content, "command": "normscope --out '`x`'"})
    assert "Made by `normscope`." in markdown({**content, "command": "normscope"})
