"""Times to a target on the page and in the terminal: sentences, table, marks on the curves; hostile names stay text."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from normscope.cli.tables import target_tables
from normscope.report import write_report
from normscope.report.drawing.format import ratio
from normscope.report.study.targets import crossings, describe_targets, target_rows, target_sentences
from normscope.results import Summary, summarize
from normscope.results.targets.record import split_target
from support.curves import reaching, write_curve
from support.study_folders import Study

ARM = "<b>$arm$"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "times"
    valid = {"name": "loss", "unit": "nats", "higher_is_better": False}
    targets = {"values": [1.0, "baseline"], "margin": 1.1}
    study = Study(path, labels=("base", ARM, "slow"), seeds=range(8), targets=targets, valid_metric=valid)
    for label, steps in (("base", [40, 60]), (ARM, [20, 30]), ("slow", [80, None])):
        for seed in study.seeds:
            write_curve(study, label, seed, reaching(steps[seed % 2]))
    summarize(path).write(path)
    return path


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    return summarize(folder)


def test_the_page_shows_every_verdict_ratio_and_crossing(folder: Path) -> None:
    page = write_report(folder).read_text(encoding="utf-8")
    assert ARM not in page
    section = page[page.index('<section id="times"') : page.index('<section id="cost"')]
    # Three arms and two targets.
    assert section.count("<tr data-arm=") == 6
    for words in ("Evaluations are 10 updates apart", "4 of 8", "0.500", "at least", "any false claim on times"):
        assert words in section
    assert section.count('<strong class="failing">4 of 8</strong>') == 2
    # A mark with its seed for each of the runs that arrive, at both targets, and none for the other four.
    assert page.count("reaches 1 nats at step") == 20
    assert (
        page.count("reaches the baseline&#39;s best at step") + page.count("reaches the baseline's best at step") == 20
    )
    assert "Updates to 1 nats: faster, 0.500 times those of base" in page
    assert "4 of 8 seeds reach 1 nats" in page
    assert "Updates to the baseline's final validation loss" not in page
    assert json.loads((folder / "summary.json").read_text())["arms"][1]["targets"][0]["verdict"] == "better"


def test_sentences_begin_with_the_runs_that_never_arrive(summary: Summary) -> None:
    assert target_sentences(summary.arms[0], summary) == []
    first, _ = target_sentences(summary.arms[2], summary)
    assert first.startswith("Updates to 1 nats: fails to reach it in 4 of 8 seeds; slower, ")
    assert [row["kind"] for row in target_rows(summary)] == ["baseline", "better", "worse"] * 2
    assert len(describe_targets(summary)) == 2


def test_a_study_without_targets_has_none_of_it(tmp_path: Path) -> None:
    study = Study(tmp_path, seeds=range(2))
    study.fill("layer_norm", [5.0, 5.1])
    study.fill("ada_norm", [5.0, 5.1])
    plain = summarize(tmp_path)
    assert (describe_targets(plain), target_rows(plain), target_sentences(plain.arms[1], plain)) == ([], [], [])
    assert list(target_tables(plain, width=120)) == []
    assert crossings([], plain.arms[1], plain.arms[0], "") == []
    plain.write(tmp_path)
    assert 'id="times"' not in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_terminal_has_a_table_for_each_target(summary: Summary, width: int) -> None:
    tables = list(target_tables(summary, width=width))
    assert len(tables) == 2
    output = io.StringIO()
    for table in tables:
        Console(file=output, width=width).print(table)
    text = " ".join(output.getvalue().split())
    for words in ("Updates to 1 nats in loss", "4 of 8", "better", "worse", "equivalent below a ratio of 1.1"):
        assert words in text
    assert ("95 % interval" in text) == (width >= 80)
    assert ("seconds" in text) == (width >= 120)


def test_ratios_in_words() -> None:
    bounds = [None, (None, None), (0.5, 0.5), (0.5, 0.71), (None, 0.5), (1.01, None)]
    words = ["\N{EM DASH}", "not bounded", "0.500", "0.500 to 0.710", "at most 0.500", "at least 1.01"]
    assert [ratio(each) for each in bounds] == words
    failures = "fails to reach it in 1 of 8 seeds; the baseline fails to reach it in 2 of 8 seeds"
    assert split_target(f"{failures}; equivalent (ahead; exploratory)") == (failures, "equivalent (ahead; exploratory)")
    assert split_target("better") == ("", "better")
