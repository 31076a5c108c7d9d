"""Tables with two sources: published beside ours, untuned beside tuned."""

from dataclasses import replace
from pathlib import Path

from normscope.report.beside import published_tables, tuned_beside_untuned
from normscope.report.folder import read_study


def test_published_values_stand_beside_the_arm_with_the_same_norm(whole_study: Path) -> None:
    study = read_study(whole_study)
    (table,) = published_tables(study)
    rows = {row["norm"]: row for row in table["rows"]}
    ada = next(arm for arm in study.summary["arms"] if arm["norm"] == "ada_norm")
    assert rows["ada_norm"]["label"] == "ada_norm"
    assert (rows["ada_norm"]["theirs"], float(rows["ada_norm"]["ours"])) == ("98.5", round(ada["mean"], 2))
    # 98.5 for AdaNorm less 98.1 for LayerNorm.
    assert rows["ada_norm"]["their_difference"] == "+0.40"
    assert rows["batch_norm"] | {"theirs": "98.0"} == rows["batch_norm"]
    assert (rows["batch_norm"]["label"], rows["batch_norm"]["ours"]) == (None, "—")
    assert (rows["dyt"]["theirs"], rows["dyt"]["their_difference"]) == ("—", "—")
    assert rows["layer_norm"]["their_difference"] == "—"


def test_every_arm_of_a_norm_has_its_own_row(whole_study: Path) -> None:
    study = read_study(whole_study)
    twin = study.summary["arms"][3] | {"label": "ada_norm(scale=2.0)"}
    doubled = replace(study, summary={**study.summary, "arms": [*study.summary["arms"], twin]})
    labels = [row["label"] for row in published_tables(doubled)[0]["rows"] if row["norm"] == "ada_norm"]
    assert labels == ["ada_norm", "ada_norm(scale=2.0)"]


def test_no_published_table(half_study: Path) -> None:
    assert published_tables(read_study(half_study)) == []


def test_untuned_and_tuned_are_the_same_arm(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    rows = tuned_beside_untuned(summary)
    assert [row["label"] for row in rows] == [arm["label"] for arm in summary["arms"]]
    for row, tuned, untuned in zip(rows[1:], summary["arms"][1:], summary["untuned"][1:], strict=True):
        assert [side["rate"] for side in row["sides"]] == ["0.001", "0.003"]
        for side, arm in zip(row["sides"], (untuned, tuned), strict=True):
            shown = float(side["difference"].replace("−", "-"))
            assert abs(shown - arm["difference"]) <= 0.005 + 1e-9


def test_an_arm_without_an_untuned_twin_has_dashes(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    first = tuned_beside_untuned({**summary, "untuned": summary["untuned"][1:]})[0]
    assert first["sides"][0]["verdict"] == "—"
