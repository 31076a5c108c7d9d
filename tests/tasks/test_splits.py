"""Splits that every seed draws: the same in every arm, with preprocessing fitted on the seed's training part."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normscope.results import summarize
from normscope.results.store import StudyFolder, read_json
from normscope.studies import StudySpec, compare
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec, plan, record
from normscope.studies.run import execute
from normscope.studies.spec import TUNING_SEEDS, make_study
from normscope.tasks import TASKS, BaseTask, CustomTask, Recipe
from normscope.tasks.images import DIGITS
from normscope.tasks.sentences import CR, MPQA, RT, SUBJ, EncoderSize

CPU = torch.device("cpu")
RESAMPLING = [
    *("digits", "rt", "cr", "subj", "mpqa", "ptb_wsj_sample"),
    *("novels_skip_thoughts", "book_corpus_skip_thoughts"),
]


class Here:
    """Computes runs in this process."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Any) -> None:
        for spec in specs:
            state = execute(spec, study, lambda step, loss: False)
            callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))


def rows(part: Any) -> set[bytes]:
    return {row.numpy().tobytes() for row in part.x}


def test_the_tasks_without_a_test_set_of_their_own_resample_by_default() -> None:
    assert [name for name, task in TASKS.items() if "resampled" in task.splits] == RESAMPLING
    for name in RESAMPLING:
        assert make_study(name).splits == "resampled"
        assert make_study(name, splits="published").splits == "published"
        assert {spec.split for spec in plan(make_study(name))} == {"resampled"}
        assert {spec.split for spec in plan(make_study(name), split="tune")} == {"resampled_tune"}
    assert make_study("sst5").splits == "published"


def test_a_task_with_a_test_set_refuses_and_names_those_without() -> None:
    wanted = (
        r"mnist_cnn has a test set of its own and cannot take splits='resampled'; tasks that can: "
        "digits, rt, cr, subj, mpqa, ptb_wsj_sample, novels_skip_thoughts, book_corpus_skip_thoughts$"
    )
    with pytest.raises(ValueError, match=wanted):
        make_study("mnist_cnn", splits="resampled")
    with pytest.raises(ValueError, match="splits must be one of 'published', 'resampled' or None, got 'random'"):
        make_study("digits", splits="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="splits must be published or resampled, got 'random'"):
        dataclasses.replace(make_study("digits"), splits="random")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "norm", "identity"), [("digits", "none", "e9990e81cd03a2af"), ("rt", "layer_norm", "18ed274423128f49")]
)
def test_published_splits_keep_the_names_of_their_runs_and_studies(task: str, norm: str, identity: str) -> None:
    """Two runs that are committed in docs/results."""
    published = make_study(task, norms=[norm], splits="published")
    assert plan(published)[0].id == identity
    resampled = make_study(task, norms=[norm])
    assert plan(resampled)[0].id != identity
    assert resampled.id != published.id
    folder = {"digits": "digits_published"}.get(task, task)
    committed = read_json(Path(__file__).parents[2] / "docs" / "results" / folder / "summary.json")
    assert identity in [run["id"] for arm in committed["arms"] for run in arm["runs"]]


def test_the_study_of_a_task_with_published_splits_keeps_its_name() -> None:
    # As before there was a choice of splits.
    assert make_study("sst5", norms=["layer_norm"], seeds=2).id == "6d0182bfa7"


@pytest.mark.parametrize("task", [DIGITS, RT, CR, SUBJ, MPQA], ids=lambda task: task.name)
def test_parts_are_disjoint_and_of_the_published_sizes(task: BaseTask, small_data: Path) -> None:
    published: Any = task.load(CPU, "study", "small")
    for seed in (0, 1):
        drawn: Any = task.for_run(seed, "resampled").load(CPU, "resampled", "small")
        sets = [rows(part) for part in (drawn.train, drawn.valid, drawn.test)]
        assert not sets[0] & sets[1]
        assert not sets[2] & (sets[0] | sets[1])
        for part in ("train", "valid", "test"):
            sizes = [len(getattr(side, part).y) for side in (drawn, published)]
            assert sizes[0] == pytest.approx(sizes[1], abs=15)
        trial: Any = task.for_run(seed, "resampled_tune").load(CPU, "resampled_tune", "small")
        assert torch.equal(trial.train.x, drawn.train.x)
        assert torch.equal(trial.valid.x, drawn.valid.x)
        assert len(trial.test.y) == 0


def test_pixels_are_standardized_over_the_training_part_of_the_seed() -> None:
    for seed in (0, 1):
        drawn = DIGITS.for_run(seed, "resampled").load(CPU, "resampled", "small")
        assert float(drawn.train.x.double().mean()) == pytest.approx(0, abs=1e-6)
        assert float(drawn.train.x.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
        assert abs(float(drawn.test.x.double().mean())) > 1e-5


def test_words_are_those_of_the_training_part_of_the_seed(small_data: Path) -> None:
    sizes = []
    for seed in (0, 1, 2):
        task = RT.for_run(seed, "resampled")
        counts = Counter(
            word for sentence in RT.read(seed=seed).train.sentences for word in sentence.lower().split(" ")
        )
        words = task.load(CPU, "resampled", "small").words
        assert words.numbers.keys() == {word for word, count in counts.items() if count >= 2}
        spec = plan(make_study("rt", norms=["layer_norm"], seeds=[seed]))[0]
        assert spec.build().get_parameter("embedding.weight").shape[0] == words.size
        sizes.append(words.size)
    assert len(set(sizes)) > 1


def test_a_split_and_a_seed_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"split must be 'study' or 'tune', got 'resampled': for_run\(seed, split\)"):
        DIGITS.load(CPU, "resampled", "small")
    with pytest.raises(ValueError, match="split must be 'resampled' or 'resampled_tune', got 'study'"):
        DIGITS.for_run(3, "resampled").load(CPU, "study", "small")
    assert DIGITS.for_run(3, "study") is DIGITS


def test_another_process_draws_the_same_split(small_data: Path) -> None:
    code = (
        "import hashlib, torch; from normscope.tasks.sentences import MPQA; "
        "data = MPQA.for_run(5, 'resampled').load(torch.device('cpu'), 'resampled', 'small'); "
        "print(hashlib.sha256(data.test.x.numpy().tobytes() + data.train.x.numpy().tobytes()).hexdigest())"
    )
    found = {
        subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_a_study_over_splits_says_what_it_generalizes_over(tmp_path: Path) -> None:
    study = make_study("digits", norms=["layer_norm", "none"], seeds=7, steps=20)
    summary = compare(study, out=tmp_path, engine=Here())
    card = read_json(tmp_path / "card.json")
    assert card["splits"] == "resampled"
    wanted = "over seeds and splits of these 14 sheets of digits, each copied by one writer"
    assert card["generalizes"] == summary.generalizes == wanted
    content = read_json(tmp_path / "summary.json")
    assert (content["splits"], content["generalizes"]) == ("resampled", wanted)
    # The spread over splits is shared by the arms: it says nothing of the seeds that a difference needs.
    assert content["noise"]["words"].endswith("pairs share their split, so differences vary less")
    assert wanted in (tmp_path / "report.html").read_text()
    folder = StudyFolder(tmp_path)
    scores: dict[int, list[np.ndarray]] = {}
    for spec in plan(study):
        run = folder.run(spec.id)
        assert run.read_description()["split"] == "resampled"
        examples = run.read_examples()
        assert examples is not None
        scores.setdefault(spec.seed, []).append(examples)
    # Equal in both arms, and of another size for another seed, which is no obstacle.
    sizes = {seed: [len(each) for each in both] for seed, both in scores.items()}
    assert all(one == other for one, other in sizes.values())
    assert len({one for one, _ in sizes.values()}) > 1
    arm = summary.arms[1]
    assert (arm.interval_examples, arm.pairs) == (None, 7)
    assert "test" not in arm.verdict
    assert summarize(tmp_path) == summary


def test_runs_of_another_rule_do_not_serve_a_study(tmp_path: Path) -> None:
    options: Any = {"norms": ["layer_norm", "none"], "steps": 10}
    compare(make_study("digits", splits="published", seeds=[0], **options), out=tmp_path, engine=Here())
    with pytest.raises(ValueError, match="holds another study"):
        compare(make_study("digits", seeds=[0, 1], **options), out=tmp_path, engine=Here())
    # A card from before there was a choice has published splits.
    card = read_json(tmp_path / "card.json")
    del card["splits"], card["generalizes"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="holds another study"):
        compare(make_study("digits", seeds=[0, 1], **options), out=tmp_path, engine=Here())
    summary = compare(make_study("digits", splits="published", seeds=[0, 1], **options), out=tmp_path, engine=Here())
    assert [arm.pairs for arm in summary.arms] == [2, 2]


def test_tuning_trains_and_validates_on_a_split_of_its_own_seed(tmp_path: Path) -> None:
    study = make_study("digits", norms=["layer_norm", "none"], seeds=[0], steps=10, tune=True)
    compare(study, out=tmp_path, engine=Here())
    trials = [read_json(path) for path in (tmp_path / "tuning" / "runs").glob("*/run.json")]
    assert len(trials) == 6
    assert {(trial["split"], trial["seed"]) for trial in trials} == {("resampled_tune", TUNING_SEEDS[0])}
    assert not list((tmp_path / "tuning" / "runs").glob("*/examples.npy"))


SPLIT_FILE = """
import torch
from normscope import Metric, Recipe, Trial

def make(norm, placement, seed, split="study"):
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    x, y = torch.arange(60.0)[:, None] / 60, (torch.arange(60) % 2)
    parts = {"train": order[:40], "valid": order[40:50], "test": order[50 : 55 + seed % 3]}
    return Trial(
        model=torch.nn.Sequential(torch.nn.Linear(1, 4), norm(4), torch.nn.Linear(4, 2)),
        metric=Metric(name="test error", unit="%", higher_is_better=False),
        loss=lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]),
        batches=[(x[part], y[part]) for part in parts["train"].split(8)],
        evaluate=lambda model, part: 100.0 * (model(x[parts[part]]).argmax(-1) != y[parts[part]]),
        recipe=Recipe(steps=5, batch_size=8, learning_rate=1e-2),
        margin=1.0,
        splits_by_seed=SPLITS,
    )
"""


@pytest.mark.parametrize("by_seed", [True, False])
def test_a_custom_task_says_that_it_splits_by_its_seed(tmp_path: Path, by_seed: bool) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SPLIT_FILE.replace("SPLITS", str(by_seed)))
    study: StudySpec = make_study(f"{path}:make", norms=["layer_norm", "none"], seeds=6)
    assert study.splits == ("resampled" if by_seed else "published")
    summary = compare(study, out=tmp_path / "study", engine=Here())
    card = read_json(tmp_path / "study" / "card.json")
    assert card["generalizes"].startswith("over seeds and the splits" if by_seed else "over seeds, and over test ex")
    assert ("different test examples" in summary.arms[1].verdict) is not by_seed
    other = "published" if by_seed else "resampled"
    wanted = rf"mine.py:make splits its data itself, so splits='{other}' would change nothing"
    with pytest.raises(ValueError, match=wanted):
        make_study(f"{path}:make", splits=other)


def test_the_number_of_parameters_is_the_median_over_the_splits(tmp_path: Path, small_data: Path) -> None:
    tiny = dataclasses.replace(
        RT,
        sizes={"small": EncoderSize(width=8, heads=2, feed_forward=16, dropout=0.1, layers=1)},
        presets={"small": Recipe(steps=3, batch_size=128, learning_rate=3e-3)},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "rt", tiny)
        study = make_study("rt", norms=["layer_norm"], seeds=3)
        summary = compare(study, out=tmp_path, engine=Here())
        counts = [StudyFolder(tmp_path).run(spec.id).read_description()["parameters"] for spec in plan(study)]
    assert len(set(counts)) > 1
    assert summary.arms[0].parameters == sorted(counts)[1]


def test_the_card_of_published_splits_says_so() -> None:
    content = record(make_study("mnist_cnn"), command="x", tuned=None, tuning=None)
    assert (content["splits"], content["generalizes"]) == ("published", "over seeds, and over test examples")
    assert isinstance(TASKS["mnist_cnn"], BaseTask)
    assert not isinstance(TASKS["mnist_cnn"], CustomTask)
