"""A paper tried with tuned arms, and with a network without norms that has an initialization made for it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from normscope.papers import PAPERS, ReproductionRequest, reproduce
from normscope.papers.judging.cell import PaperArm, Setup
from normscope.papers.without_norms import CANDIDATES, FILE, adopt, candidates, choose_without_norms, read_choice
from normscope.papers.xu2019.study import NORMS, XU2019, studies
from normscope.placement import PLACEMENTS
from normscope.results.store import RunFolder, StudyFolder, read_json
from normscope.specs import PlacementSpec
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import plan
from normscope.studies.spec import Arm, StudySpec

pytestmark = pytest.mark.usefixtures("small_data")


def setup(**changed: object) -> Setup:
    return Setup(**{"preset": "small", "seeds": (0, 1), "steps": 4, **changed})  # pyright: ignore[reportArgumentType]


def test_every_candidate_is_a_placement_without_norms_that_transformers_take() -> None:
    assert not any(PlacementSpec(text).has_norms for text in CANDIDATES)
    # SkipInit at zero is ReZero, and a plain stream is what they are compared with.
    assert {name for text in CANDIDATES for name in PlacementSpec(text).names} == {
        name for name, entry in PLACEMENTS.items() if not entry.has_norms and name not in {"none", "preactivation"}
    }
    assert candidates("rt") == CANDIDATES
    assert candidates("mnist_cnn") == candidates("ud_ewt") == ()


def test_without_norms_is_the_chosen_network_and_the_plain_one_stands_beside_it() -> None:
    (study,) = studies("rt", setup(tune=True, without_norms="t_fixup"))
    none = PaperArm(norm="none")
    assert (study.labels[none], study.plain[none]) == ("none@t_fixup", "none@pre")
    assert study.spec.labels() == (*(f"{norm}@pre" for norm in NORMS), "none@t_fixup")
    assert study.spec.labels()[study.spec.baseline] == "layer_norm@pre"
    assert (study.name, study.spec.tune) == ("rt-tuned", True)
    (final,) = studies("multi30k_de_en", setup(steps=None, norms_at="final", tune=True, without_norms="t_fixup"))
    assert final.name == "multi30k_de_en-final-tuned"
    assert final.plain == {}
    (untuned,) = studies("rt", setup())
    assert (untuned.name, untuned.plain, untuned.spec.tune) == ("rt", {}, False)


def test_runs_of_the_untuned_study_are_those_of_the_tuned_one() -> None:
    # What was computed before stays valid: the same runs, under the labels of the new study.
    (untuned,), (tuned,) = studies("rt", setup()), studies("rt", setup(tune=True, without_norms="t_fixup"))
    assert {spec.id for spec in plan(untuned.spec)} < {spec.id for spec in plan(tuned.spec)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Leave two candidates and two norms, so that a reproduction takes seconds."""
    monkeypatch.setattr("normscope.papers.without_norms.CANDIDATES", ("rezero", "t_fixup"))
    monkeypatch.setattr("normscope.papers.xu2019.study.NORMS", ("none", "layer_norm"))
    monkeypatch.setitem(PAPERS, "xu2019", replace(XU2019, counts=()))
    return ("rezero", "t_fixup")


@pytest.mark.slow
def test_tuned_arms_are_judged_and_untuned_and_plain_ones_stand_beside_them(few: Sequence[str], tmp_path: Path) -> None:
    request = ReproductionRequest(paper="xu2019", only=("rt",), seeds=(0, 1), steps=4, out=tmp_path, workers=1)
    untuned = reproduce(replace(request, tune=False))
    assert {row["condition"] for cell in untuned["cells"] for row in cell.get("beside", ())} == set()
    kept = {run.name for run in (tmp_path / "rt" / "runs").iterdir()}

    events: list[RunEvent] = []
    content = reproduce(request, callback=events.append)
    folder = StudyFolder(tmp_path / "rt-tuned")
    card = folder.read_card()
    # Nothing that the untuned study had was computed again, nor the trials of the choice.
    computed = {event.spec.id for event in events if event.state == "running"}
    assert kept < {run.name for run in (folder.path / "runs").iterdir()}
    assert not kept & computed
    trials = [event.spec for event in events if event.state == "running" and event.spec.seed == 1000]
    assert len({spec.id for spec in trials}) == 3 * (len(few) + 2)
    choice = read_choice(folder.path)
    assert choice is not None
    assert set(choice["candidates"]) == set(few)
    assert (choice["chosen"] in few, choice["trials"]) == (True, 6)
    assert set(card["tuning"]["arms"]) == {"none@pre", "layer_norm@pre", f"none@{choice['chosen']}"}

    (study,) = content["studies"]
    assert (study["without_norms"], study["tuning"]) == (choice, card["tuning"])
    told = {cell["id"]: cell for cell in content["cells"]}
    conditions = [each["condition"] for each in told["rt/none-layer_norm"]["beside"]]
    assert conditions == ["untuned", "plain initialization"]
    assert [each["condition"] for each in told["rt/layer_norm"]["beside"]] == ["untuned"]
    page = (tmp_path / "reproduce.md").read_text(encoding="utf-8")
    assert f"The network without norms is {choice['chosen']}, the best" in page
    assert "untuned: " in page
    assert "plain initialization: " in page
    assert "## What this machine cannot tell" in page

    # The figure of the tuned arm is that of the runs with its rate.
    rate = card["tuning"]["arms"]["layer_norm@pre"]["chosen"]
    values = [
        each.read_result()["value"]
        for each in map(RunFolder, (folder.path / "runs").iterdir())
        if each.read_description()["label"] == "layer_norm@pre" and each.read_description()["learning_rate"] == rate
    ]
    assert told["rt/layer_norm"]["ours"] == pytest.approx(sum(values) / 2)
    again: list[RunEvent] = []
    assert reproduce(request, callback=again.append) == content
    assert "running" not in {event.state for event in again}
    # Whoever has only the untuned study still reads it.
    (folder.path / "card.json").unlink()
    read = reproduce(replace(request, read_only=True))
    assert [study["folder"] for study in read["studies"]] == [str(tmp_path / "rt")]


@pytest.mark.slow
def test_the_best_candidate_wins_and_the_choice_is_kept(few: Sequence[str], tmp_path: Path) -> None:
    (study,) = studies("rt", setup(tune=True))
    events: list[RunEvent] = []
    made = choose_without_norms(study.spec, tmp_path, workers=1, callback=events.append)
    values = {name: each["value"] for name, each in made["candidates"].items()}
    assert values[made["chosen"]] == max(values.values())
    assert json.loads((tmp_path / FILE).read_text()) == made
    assert "study" not in {event.spec.split for event in events}
    assert {event.spec.seed for event in events} == {1000}
    kept = {**made, "chosen": "fixup"}
    (tmp_path / FILE).write_text(json.dumps(kept))
    assert choose_without_norms(study.spec, tmp_path, workers=1, callback=lambda event: pytest.fail("ran")) == kept


def test_a_run_is_taken_over_with_the_label_of_the_new_study(trained: Path, tmp_path: Path) -> None:
    old = StudyFolder(trained).read_card()["arms"][1]

    spec = StudySpec(
        question="?",
        task="digits",
        arms=(Arm.parse("layer_norm", "pre"), Arm.parse("layer_norm", "post")),
        baseline=0,
        margin=0.5,
        seeds=(0, 1),
        steps=40,
    )
    assert adopt(plan(spec), trained, tmp_path) == 2
    assert adopt(plan(spec), trained, tmp_path) == 0
    for seed in (0, 1):
        run = StudyFolder(tmp_path).run(old["runs"][str(seed)])
        assert read_json(run.description)["label"] == "layer_norm@pre"
        there = StudyFolder(trained).run(run.path.name)
        assert run.read_result() == there.read_result()
        assert (run.read_examples() == there.read_examples()).all()  # pyright: ignore[reportOptionalMemberAccess]
