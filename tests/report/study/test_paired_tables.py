"""Tables with two sources: published beside ours, untuned beside tuned."""

from dataclasses import replace
from pathlib import Path

import pytest

from normscope.report.study.folder import StudyRecord, read_study
from normscope.report.study.paired import published_tables, tuned_beside_untuned


def test_published_values_stand_beside_the_arm_with_the_same_norm(whole_study: Path) -> None:
    study = read_study(whole_study)
    (table,) = published_tables(study)
    rows = {row["norm"]: row for row in table["rows"]}
    ada = next(arm for arm in study.summary.arms if arm.norm == "ada_norm")
    assert rows["ada_norm"]["label"] == "ada_norm"
    assert (rows["ada_norm"]["theirs"], float(rows["ada_norm"]["ours"])) == ("98.5", round(ada.mean, 2))
    # 98.5 for AdaNorm less 98.1 for LayerNorm.
    assert rows["ada_norm"]["their_difference"] == "+0.40"
    assert rows["batch_norm"] | {"theirs": "98.0"} == rows["batch_norm"]
    assert (rows["batch_norm"]["label"], rows["batch_norm"]["ours"]) == (None, "—")
    assert (rows["dyt"]["theirs"], rows["dyt"]["their_difference"]) == ("—", "—")
    assert rows["layer_norm"]["their_difference"] == "—"


def test_every_arm_of_a_norm_has_its_own_row(whole_study: Path) -> None:
    study = read_study(whole_study)
    twin = replace(study.summary.arms[3], label="ada_norm(scale=2.0)")
    doubled = replace(study, summary=replace(study.summary, arms=(*study.summary.arms, twin)))
    labels = [row["label"] for row in published_tables(doubled)[0]["rows"] if row["norm"] == "ada_norm"]
    assert labels == ["ada_norm", "ada_norm(scale=2.0)"]


def test_no_published_table(half_study: Path) -> None:
    assert published_tables(read_study(half_study)) == []


def test_untuned_and_tuned_are_the_same_arm(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    rows = tuned_beside_untuned(summary)
    assert [row["label"] for row in rows] == [arm.label for arm in summary.arms]
    for row, tuned, untuned in zip(rows[1:], summary.arms[1:], summary.untuned[1:], strict=True):
        assert [side["rate"] for side in row["sides"]] == ["0.001", "0.003"]
        for side, arm in zip(row["sides"], (untuned, tuned), strict=True):
            shown = float(side["difference"].replace("−", "-"))
            assert abs(shown - arm.difference) <= 0.005 + 1e-9


def test_an_arm_without_an_untuned_twin_has_dashes(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    first = tuned_beside_untuned(replace(summary, untuned=summary.untuned[1:]))[0]
    assert first["sides"][0]["verdict"] == "—"


SHOWN = ("ours", "our_difference", "our_interval")


def scored(study: StudyRecord, ours: str | None, theirs: str | None) -> StudyRecord:
    """Return the study with these signatures of the two scorers."""
    metric = {**study.card["metric"], **({} if ours is None else {"signature": ours})}
    tables = [{**table, **({} if theirs is None else {"signature": theirs})} for table in study.card["published"]]
    return replace(study, card={**study.card, "metric": metric, "published": tables})


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("nrefs:1|tok:13a", "tok:intl", "scored as tok:intl, ours as nrefs:1|tok:13a;"),
        ("nrefs:1|tok:13a", "", "scored as the source does not say, ours as nrefs:1|tok:13a;"),
        ("nrefs:1|tok:13a", None, "scored as the source does not say, ours as nrefs:1|tok:13a;"),
        (None, "tok:intl", "scored as tok:intl, ours as no such scorer;"),
    ],
)
def test_figures_of_another_scorer_are_not_compared(
    whole_study: Path, ours: str | None, theirs: str | None, words: str
) -> None:
    study = read_study(whole_study)
    (plain,) = published_tables(study)
    (table,) = published_tables(scored(study, ours, theirs))
    assert table["note"].startswith(plain["note"] + " Not compared with ours: ")
    assert words in table["note"]
    assert all(row[key] == "—" for row in table["rows"] for key in SHOWN)
    # What the source prints stays, and so does its own difference.
    for row, before in zip(table["rows"], plain["rows"], strict=True):
        assert {key: row[key] for key in row if key not in SHOWN} == {
            key: before[key] for key in before if key not in SHOWN
        }


@pytest.mark.parametrize("signature", [None, "", "nrefs:1|tok:13a"])
def test_figures_of_one_scorer_are_compared(whole_study: Path, signature: str | None) -> None:
    study = read_study(whole_study)
    assert published_tables(scored(study, signature, signature)) == published_tables(study)


def test_tuned_arms_that_differ_in_their_warm_up_stand_beside_their_own_twin(whole_study: Path) -> None:
    summary = read_study(whole_study).summary
    pairs = {}
    for side, rate in (("arms", 0.003), ("untuned", 0.001)):
        first = getattr(summary, side)[1]
        pairs[side] = tuple(
            replace(first, label=f"layer_norm_simple, warm-up {warmup}", learning_rate=rate * (1 + warmup))
            for warmup in (0, 50)
        )
    rows = tuned_beside_untuned(replace(summary, **pairs))
    assert [[side["rate"] for side in row["sides"]] for row in rows] == [["0.001", "0.003"], ["0.051", "0.153"]]
