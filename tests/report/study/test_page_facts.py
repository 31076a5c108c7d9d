"""Settings, versions and hashes of all runs, and what differs between them."""

from dataclasses import replace
from pathlib import Path

from normscope.report.study.folder import read_study
from normscope.report.study.page import disagreements, facts, strangers


def test_settings_versions_and_hashes_are_listed(whole_study: Path) -> None:
    groups = {head: dict(rows) for head, rows in facts(read_study(whole_study)).items()}
    assert groups["Settings"]["device_name"] == "AMD EPYC 7B13"
    assert groups["Versions"]["torch"] == "2.13.0+cpu"
    assert len(groups["Data (SHA-256)"]["digits.csv.gz"]) == 64


def test_equal_runs_disagree_in_nothing(whole_study: Path) -> None:
    assert disagreements(read_study(whole_study)) == []


def test_runs_of_two_versions_are_counted(half_study: Path) -> None:
    study = read_study(half_study)
    (line,) = disagreements(study)
    # Seed 3 of seven arms has the older torch; 38 runs have begun.
    assert line == "versions: torch: 2.13.0+cpu in 31 runs, 2.12.1 in 7 runs"


def test_runs_on_two_devices_and_data_are_counted(whole_study: Path) -> None:
    study = read_study(whole_study)
    odd = replace(study.runs[0], description={**study.runs[0].description, "device_name": "H100", "data": {"d": "00"}})
    lines = disagreements(replace(study, runs=(odd, *study.runs[1:])))
    assert "device_name: H100 in 1 runs, AMD EPYC 7B13 in 139 runs" in lines


def test_nested_settings_of_the_summary_are_flattened(whole_study: Path) -> None:
    study = read_study(whole_study)
    summary = replace(study.summary, settings={"optimizer": {"betas": [0.9, 0.999]}, "foreign_runs": ["abc"]})
    changed = replace(study, summary=summary)
    assert dict(facts(changed)["Settings"])["optimizer.betas"] == "0.9, 0.999"
    assert strangers(changed) == ["abc"]
    assert strangers(study) == []
