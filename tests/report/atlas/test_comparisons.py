"""Every comparison of a folder of studies is there once, as its study found it, and nothing else is."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normscope.report.atlas import Atlas, Comparison, read_atlas
from normscope.report.atlas.comparisons import (
    ALL_OUTCOMES,
    CONDITIONAL,
    NETWORKS,
    NO_CLAIM,
    OPTIMIZER,
    UNFINISHED,
    limits,
    name_tasks,
)
from normscope.results import read_summary, summarize
from normscope.results.store import write_json
from normscope.specs import NormSpec
from normscope.tasks import TASKS

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def gather(folder: Path, **studies: Path) -> Path:
    """Copy the summaries of studies into the folders below one."""
    for name, study in studies.items():
        (folder / name).mkdir(parents=True)
        shutil.copy(study / "summary.json", folder / name)
    return folder


def change(study: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the summary of a study."""
    content = json.loads((study / "summary.json").read_text())
    edit(content)
    (study / "summary.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def committed() -> Atlas:
    return read_atlas(RESULTS)


def test_every_committed_arm_is_there_once_with_its_numbers(committed: Atlas) -> None:
    wanted = {
        (path.parent.name, arm["label"]): arm
        for path in RESULTS.glob("*/summary.json")
        for arm in json.loads(path.read_text())["arms"]
    }
    found = {(each.study, each.arm.label): each.to_dict() for each in committed.comparisons}
    assert len(committed.comparisons) == len(wanted)
    assert found.keys() == wanted.keys()
    for key, arm in wanted.items():
        for name in ("norm", "placement", "difference", "interval", "verdict", "step_ms", "p_adjusted", "pairs"):
            value = found[key][name]
            assert (list(value) if isinstance(value, tuple) else value) == arm[name]


def test_cells_hold_everything_and_what_was_not_measured_is_empty(committed: Atlas) -> None:
    cells = {(norm, task): committed.at(norm, task) for norm in committed.norms for task in committed.tasks}
    assert sorted(map(id, (each for cell in cells.values() for each in cell))) == sorted(map(id, committed.comparisons))
    assert cells["rms_norm", "rt"] == []
    # The study of Xu et al., and four arms of the warm-up study: none stands for another.
    assert [each.study for each in cells["layer_norm", "multi30k_de_en"]] == ["multi30k_de_en"] + [
        "multi30k_warmup"
    ] * 4


def test_a_sentence_says_what_the_summaries_say() -> None:
    folders = [path.parent for path in RESULTS.glob("*/summary.json")]
    atlas = read_atlas(RESULTS)
    for norm in atlas.norms:
        said = {kind: Counter(tasks) for kind, tasks in atlas.counts(norm)}
        wanted: dict[str, Counter[str]] = {}
        for summary in map(read_summary, folders):
            for arm in summary.arms:
                name = str(NormSpec(arm.norm, arm.arguments)) + (f",{arm.variant}" if arm.variant else "")
                if name == norm.replace(", ", ","):
                    word = arm.verdict.partition(" ")[0]
                    word = {"not": NO_CLAIM if "cannot claim anything" in arm.verdict else "undecided"}.get(word, word)
                    wanted.setdefault(word, Counter())[summary.task] += 1
        assert said == wanted
    assert atlas.sentence("rms_norm") == (
        "rms_norm: 2 equivalent (digits, tiny_shakespeare_lstm), 1 undecided (digits)."
    )
    assert atlas.sentence("batch_norm") == (
        "batch_norm: 2 better (digits, cifar10_part), 1 equivalent (novels_cloze), 2 undecided (digits, mnist_mlp)."
    )
    # A norm with other arguments is another norm.
    assert atlas.sentence("batch_norm(unbiased=True)") == "batch_norm(unbiased=True): 1 worse (mnist_mlp_batch4)."
    assert atlas.sentence("detach_norm(hold_size=True)") == "detach_norm(hold_size=True): 1 equivalent (ud_ewt)."


def test_tuned_and_untuned_arms_are_both_shown(whole_study: Path, tmp_path: Path) -> None:
    atlas = read_atlas(gather(tmp_path, whole=whole_study))
    summary = read_summary(whole_study)
    assert len(atlas.comparisons) == len(summary.arms) + len(summary.untuned or ())
    tuned, untuned = atlas.at("ada_norm", "digits")
    assert (tuned.tuned, untuned.tuned) == (True, False)
    assert tuned.arm.learning_rate != untuned.arm.learning_rate
    # Each is compared, in cost as well, with the baseline of its group.
    assert tuned.baseline in summary.arms
    assert untuned.baseline in (summary.untuned or ())
    assert untuned.times("step_ms") == (untuned.arm.step_ms or 0) / (untuned.baseline.step_ms or 1)
    assert untuned.baseline.step_ms != tuned.baseline.step_ms
    assert atlas.at("layer_norm", "digits")[0].times("step_ms") is None


def test_failures_come_before_everything(whole_study: Path, half_study: Path, tmp_path: Path) -> None:
    atlas = read_atlas(gather(tmp_path, whole=whole_study, half=half_study))
    kinds = {(each.study, each.arm.norm, each.tuned): each.outcome for each in atlas.comparisons}
    assert kinds["whole", "detach_norm", True] == "failing to train in some seeds"
    assert kinds["half", "ada_norm", None] == UNFINISHED
    assert kinds["half", "layer_norm", None] == "baseline"
    assert {*kinds.values()} <= {*ALL_OUTCOMES}


def test_what_limits_a_study_is_named(whole_study: Path) -> None:
    summary = read_summary(whole_study)
    assert limits(summary) == {}
    assert list(limits(replace(summary, complete=False))) == [UNFINISHED]
    few = replace(summary, arms=tuple(replace(arm, runs=arm.runs[:7]) for arm in summary.arms))
    assert limits(few) == {NO_CLAIM: "no claim: 7 seeds cannot support one in 12 comparisons"}
    alone = replace(summary, arms=summary.arms[:1], untuned=None)
    assert limits(alone) == {"alone": "no comparison: layer_norm is the only arm"}


def test_a_task_of_ours_has_its_network_and_optimizer() -> None:
    ours = {name: task for name, task in TASKS.items() if TASKS.origin(name) is None}
    assert ours.keys() <= NETWORKS.keys()
    for name, task in ours.items():
        assert {recipe.optimizer for recipe in task.presets.values()} == {OPTIMIZER}, name


def test_a_task_of_others_has_none(committed: Atlas) -> None:
    # Its card does not name the optimizer of its arms.
    first = next(each for each in committed.comparisons if each.study == "digits_published")
    other = Comparison(**{**vars(first), "summary": replace(first.summary, task="my_file.py:make")})
    assert (other.network, other.optimizer) == (None, None)
    atlas = Atlas(comparisons=(*committed.comparisons, other))
    assert atlas.tasks[-1] == "my_file.py:make"
    assert atlas.values(lambda each: each.network)[-1] is None


def test_the_optimizer_of_an_arm_is_that_of_the_card(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", recipe(arms=3, seeds=3, evaluations=5))
    card = json.loads((study / "card.json").read_text())
    card["arms"][1]["optimizer"] = "muon"
    write_json(study / "card.json", card)
    summarize(study).write(study)
    assert ["optimizer" in arm for arm in json.loads((study / "summary.json").read_text())["arms"]] == [0, 1, 0]
    atlas = read_atlas(tmp_path)
    assert [each.to_dict()["optimizer"] for each in atlas.comparisons] == ["adam", "muon", "adam"]
    assert atlas.values(lambda each: each.optimizer) == ["adam", "muon"]


def test_a_decision_at_a_look_stands_in_an_unfinished_study(looks_study: Path, tmp_path: Path) -> None:
    atlas = read_atlas(gather(tmp_path, looks=looks_study))
    kinds = {each.arm.norm: each.outcome for each in atlas.comparisons}
    decided = {each.arm.norm for each in atlas.comparisons if each.arm.decided_at is not None}
    assert {"ada_norm", "none"} <= decided < kinds.keys()
    assert kinds["ada_norm"] == "better"
    assert kinds["detach_norm"] == "failing to train in some seeds"
    assert {norm for norm, kind in kinds.items() if kind == UNFINISHED} == kinds.keys() - decided - {
        "layer_norm",
        "detach_norm",
    }
    (better,) = [each for each in atlas.comparisons if each.arm.norm == "ada_norm"]
    assert better.to_dict()["decided_at"] == 10
    (study,) = atlas.to_dict()["studies"]
    assert (study["looks"]["pairs"], study["looks"]["reached"], study["looks"]["next"]["pairs"]) == (
        (10, 15, 20),
        1,
        15,
    )


def test_a_claim_at_the_conditional_level_is_not_called_exploratory(looks_study: Path, tmp_path: Path) -> None:
    better, equivalent = "better (at the conditional level)", "equivalent (exploratory: the plan was changed)"

    def edit(content: dict[str, Any]) -> None:
        content["looks"]["continues"] = {"pairs": [10, 15], "spending": "pocock", "seen": 10}
        for arm, verdict, at in zip(content["arms"][3:6], (better, equivalent, "worse"), (15, 15, 10), strict=True):
            arm |= {"verdict": verdict, "decided_at": at}
        content["arms"][1] |= {"verdict": "not enough evidence (next look at 15 seeds)", "decided_at": None}

    gather(tmp_path, looks=looks_study)
    change(tmp_path / "looks", edit)
    found = [each.limits.keys() for each in read_atlas(tmp_path).comparisons]
    assert found[3:6] == [{CONDITIONAL}, {"exploratory"}, set()]
    assert found[1] == {UNFINISHED, "exploratory"}


def test_a_folder_without_studies_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no summary\.json in it or below it"):
        read_atlas(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text('{"accuracy": 1}')
    with pytest.raises(ValueError, match=r"a/summary\.json was not written by normscope"):
        read_atlas(tmp_path)


def test_one_study_is_an_atlas(whole_study: Path) -> None:
    atlas = read_atlas(whole_study)
    assert {each.study for each in atlas.comparisons} == {"."}


def test_tasks_that_come_twice_are_counted() -> None:
    assert name_tasks(["rt", "sst5", "rt"]) == "rt ×2, sst5"


def test_json_names_every_study_once(committed: Atlas) -> None:
    content = json.loads(json.dumps(committed.to_dict(), allow_nan=False))
    studies = [study["study"] for study in content["studies"]]
    assert studies == sorted({each["study"] for each in content["comparisons"]})
    assert [each["norm"] for each in content["norms"]] == committed.norms
    few = {study["study"] for study in content["studies"] if NO_CLAIM in study["limits"]}
    assert few == {"enwiki_small", "multi30k_de_en", "multi30k_warmup"}
