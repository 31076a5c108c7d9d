"""The tasks of skip-thoughts on miniatures: trained, validated and tested; their variants and their full preset."""

import csv
import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from normscope.data.readers.skip_thoughts.book_corpus import load_book_corpus
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.recurrent.places import PLACES
from normscope.report.drawing.format import significant
from normscope.results.store import StudyFolder
from normscope.results.summary import Summary
from normscope.studies.compare import compare
from normscope.studies.spec import make_study
from normscope.tasks import TASKS, Recipe
from normscope.tasks.skip_thoughts.corpus import Ragged, Triples
from normscope.tasks.skip_thoughts.data import TEST_SETS
from normscope.tasks.skip_thoughts.evaluation import folded_scores, nested_scores
from normscope.tasks.skip_thoughts.task import (
    BOOK_CORPUS_SKIP_THOUGHTS,
    NOVELS_SKIP_THOUGHTS,
    SkipThoughtsSize,
    encode,
    sick,
)
from normscope.training.randomness import initialize
from support.in_process import InThisProcess

CPU = torch.device("cpu")
PLAIN = PLACEMENTS["preactivation"]
SIZE = SkipThoughtsSize(vocabulary=200, features=8, width=16, test="split")
NOVELS = replace(
    NOVELS_SKIP_THOUGHTS,
    sizes={"small": SIZE, "full": replace(SIZE, test="folds")},
    presets=dict.fromkeys(("small", "full"), Recipe(steps=4, batch_size=8, learning_rate=3e-3, evaluations=2)),
)
BOOK_CORPUS = replace(BOOK_CORPUS_SKIP_THOUGHTS, read=partial(load_book_corpus, held=50), sizes=NOVELS.sizes)
HELD = pytest.mark.filterwarnings("ignore::normscope.data.DataUnverified")


@pytest.mark.parametrize("task", [NOVELS_SKIP_THOUGHTS, BOOK_CORPUS_SKIP_THOUGHTS], ids=lambda task: task.name)
def test_entries_are_whole(task: Any) -> None:
    assert TASKS[task.name] is task
    assert task.sizes["full"] == SkipThoughtsSize(vocabulary=20_000, features=620, width=2400, test="folds")
    full = task.presets["full"]
    assert (full.steps, full.batch_size, full.learning_rate, full.schedule) == (1_000_000, 64, 2e-4, "constant")
    assert task.presets["small"].evaluations >= 20
    assert task.metric.higher_is_better
    assert not task.valid_metric.higher_is_better
    assert list(task.variants) == ["conditioned", "kiros"]
    assert task.varied("conditioned").conditioned
    assert task.varied("kiros").places == "kiros"


def texts_of(triples: Triples) -> set[tuple[bytes, ...]]:
    rows = [row.tobytes() for row in np.split(triples.sentences.words, triples.sentences.starts[1:-1])]
    return {tuple(rows[middle - 1 : middle + 2]) for middle in triples.middles}


@HELD
@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("task", [NOVELS, BOOK_CORPUS], ids=lambda task: task.name)
def test_books_are_held_out_whole_or_by_lines(task: Any) -> None:
    study, tune = (task.load(CPU, split, "small") for split in ("study", "tune"))
    triples = [texts_of(one) for one in (study.train, study.valid, tune.train, tune.valid)]
    assert not triples[0] & triples[1]
    assert not triples[2] & triples[3]
    assert triples[2] | triples[3] == triples[0]
    assert all(len(each) > 20 for each in triples)
    assert tune.sets == tune.pairs == ()
    assert [one.name for one in study.sets] == list(TEST_SETS)
    assert study.counts == {"not in the middle of a triple": len(study.train.sentences.lengths) - study.train_examples}
    resampled = task.for_run(3, "resampled").load(CPU, "resampled", "small")
    assert resampled.sets[0].test[0].words.tobytes() != study.sets[0].test[0].words.tobytes()
    assert resampled.sets[4].test[0].words.tobytes() == study.sets[4].test[0].words.tobytes()


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("variant", [None, "conditioned", "kiros"])
def test_words_are_predicted_better_after_training(variant: str | None) -> None:
    task = NOVELS if variant is None else NOVELS.varied(variant)
    model, data = task.network(NORMS["layer_norm"], PLAIN, "small"), task.load(CPU, "study", "small")
    initialize(model, 0)
    assert model.encoder.places == model.after.places == PLACES["GRU"]["kiros" if variant == "kiros" else "paper"]
    assert model.before.input_size == (24 if variant == "conditioned" else 8)
    optimizer = task.presets["small"].make_optimizer(model)
    order = data.order(8, lambda epoch: torch.Generator().manual_seed(epoch))
    with torch.no_grad():
        before = task.evaluate(model, data, "valid")
    for step in range(8):
        loss = task.loss(model, data.batch(order.batch(step)))
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    with torch.no_grad():
        after = task.evaluate(model, data, "valid")
    assert after[0] < before[0]
    assert before[0] == pytest.approx(np.log(200), rel=0.05)
    # Every word of the two sentences beside each one, and their ends, are counted once.
    scores, sentences = after[1], data.valid.sentences
    assert after[0] == pytest.approx(scores[:, 0].sum() / scores[:, 1].sum())
    lengths = sentences.lengths
    beside = lengths[data.valid.middles - 1] + lengths[data.valid.middles + 1] + 2
    assert scores[:, 1].tolist() == beside.tolist()
    # The first triple by itself, in float64.
    (words, count), *others = data.valid.batch(np.array([0]), CPU)
    model = model.double()
    vector = model.encode(words, count)
    sides = zip(("before", "after"), others, strict=True)
    assert task.loss(model, data.valid.batch(np.array([0]), CPU)).item() == pytest.approx(scores[0, 0] / scores[0, 1])
    assert scores[0, 0] == pytest.approx(sum(model.nats(vector, side, *one)[0].sum().item() for side, one in sides))


@HELD
@pytest.mark.usefixtures("small_data")
def test_vectors_are_tested_by_a_split_and_beside_the_bag_of_their_words() -> None:
    task, model = BOOK_CORPUS.for_run(5, "resampled"), BOOK_CORPUS.network(NORMS["layer_norm"], PLAIN, "small")
    initialize(model, 0)
    data = task.load(CPU, "resampled", "small")
    with torch.no_grad():
        errors, scores = task.evaluate(model, data, "test")
        measures = task.measures(model, data, scores)
        texts = data.sets[1].test[0]
        one = encode(model, texts, CPU)[7]
        words, lengths = texts.padded(np.array([7]), CPU, end=False)
        vector = model.encode(words, lengths)[0].numpy()
    np.testing.assert_allclose(one, vector / np.linalg.norm(vector), atol=1e-6)
    assert set(np.unique(scores)) == {0.0, 100.0}
    assert errors == pytest.approx(1 - scores.mean() / 100)
    sizes = [len(each.test[1]) for each in data.sets]
    assert len(scores) == sum(sizes)
    assert list(measures) == [
        *TEST_SETS, *(f"{name}, words" for name in TEST_SETS), "SICK r", "SICK rho", "SICK MSE"
    ]  # fmt: skip
    assert measures["CR"] == pytest.approx(scores[sizes[0] : sizes[0] + sizes[1]].mean())
    assert np.dot([measures[name] for name in TEST_SETS], sizes) / sum(sizes) == pytest.approx(scores.mean())
    # The first word of a question of the miniature names its kind.
    assert measures["TREC, words"] > 30
    # The encoder reads the end of sentences on SICK alone.
    with torch.no_grad():
        by_end = [sick(data.pairs, partial(encode, model, device=CPU, end=end)) for end in (False, True)]
    assert by_end[1] == {name: value for name, value in measures.items() if name.startswith("SICK")}
    assert by_end[0] != by_end[1]


@pytest.mark.usefixtures("small_data")
def test_the_full_preset_tests_every_sentence_by_nested_folds_but_trecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.tasks.skip_thoughts.evaluation.PENALTIES", (1.0, 16.0))
    model, data = NOVELS.network(NORMS["layer_norm"], PLAIN, "full"), NOVELS.load(CPU, "study", "full")
    initialize(model, 0)

    def some(one: tuple[Ragged, np.ndarray], count: int) -> tuple[Ragged, np.ndarray]:
        chosen = np.linspace(0, len(one[1]) - 1, count).astype(int)
        rows = np.split(one[0].words, one[0].starts[1:-1])
        return Ragged.of(rows[row] for row in chosen), one[1][chosen]

    parts = {"train": 40, "valid": 20, "test": 30}
    sets = [
        replace(one, **{part: some(getattr(one, part), count) for part, count in parts.items()})
        for one in data.sets
        if one.name in ("CR", "TREC")
    ]
    with torch.no_grad():
        scores = NOVELS.evaluate(model, replace(data, sets=tuple(sets)), "test")[1]
        vectors = [
            [(encode(model, getattr(one, part)[0], CPU), getattr(one, part)[1]) for part in parts] for one in sets
        ]
    assert len(scores) == 90 + 30
    (x, y), (trec_x, trec_y) = ([np.concatenate(side) for side in zip(*one, strict=True)] for one in vectors)
    order = np.random.default_rng(1234).permutation(90)
    assert np.array_equal(scores[:90] > 0, nested_scores(x[order], y[order]))
    order = np.random.default_rng(1234).permutation(60)
    expected = folded_scores((trec_x[:60][order], trec_y[:60][order]), (trec_x[60:], trec_y[60:]))
    assert np.array_equal(scores[90:] > 0, expected)


@pytest.mark.usefixtures("small_data")
def test_a_study_shows_the_further_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "novels_skip_thoughts", NOVELS)
    for name in ("PENALTIES", "PAIR_PENALTIES"):
        monkeypatch.setattr(f"normscope.tasks.skip_thoughts.evaluation.{name}", (1.0,))
    card = make_study("novels_skip_thoughts", norms=["none", "layer_norm"], seeds=[0, 1])
    summary = compare(card, out=tmp_path / "study", engine=InThisProcess())
    results = [
        json.loads(StudyFolder(tmp_path / "study").run(run.id or "").result.read_text())
        for run in summary.arms[1].runs
    ]  # fmt: skip
    assert summary.arms[1].measures == {
        name: pytest.approx(np.mean([result["measures"][name] for result in results]))
        for name in results[0]["measures"]
    }
    assert "SICK rho" in results[0]["measures"]
    assert json.loads(summary_row(summary)["measures"]) == summary.arms[1].measures
    assert summary.arms[1].measures
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Further results" in page
    assert f">{significant(summary.arms[1].measures['MR, words'])}<" in page


def summary_row(summary: Summary) -> dict[str, str]:
    return list(csv.DictReader(io.StringIO(summary.to_csv())))[1]


@HELD
@pytest.mark.usefixtures("small_data")
def test_the_papers_setting_starts() -> None:
    task = replace(BOOK_CORPUS, sizes=BOOK_CORPUS_SKIP_THOUGHTS.sizes)
    recipe = task.presets["full"]
    data = task.load(CPU, "tune", "full")
    # Without the orthogonal matrices: nine of 2,400 rows take half a minute.
    with torch.device("meta"):
        model = task.network(NORMS["layer_norm"], PLAIN, "full")
    model.to_empty(device=CPU)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.02, generator=generator)
        else:
            parameter.data.fill_(".norms." in name and name.endswith("weight"))
    assert model.encoder.weight_hh_l0.shape == (7200, 2400)
    optimizer = recipe.make_optimizer(model)
    losses = []
    for _ in range(2):
        loss = task.loss(model, data.batch(torch.arange(2)))
        optimizer.zero_grad()
        loss.backward()
        assert clip_grad_norm_(model.parameters(), recipe.clip) > recipe.clip
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
