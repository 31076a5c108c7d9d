"""What a study costs grows with the number of its runs, and no file is read twice: calls are counted, not seconds."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normscope.report import write_report
from normscope.report.study import folder as study_folder
from normscope.report.study import read_study
from normscope.results import summarize
from normscope.results.aggregates import sum_over_seeds
from normscope.results.schema import CARD, RESULT, ROW, RUN, _test_of, check
from normscope.results.statistics import bca_interval, flipped_sums, sign_flip_p
from normscope.results.store import StudyFolder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, str]]]:
    """Count what this process opens, lists and looks up, by the kind of call and the path."""
    counts: Counter[tuple[str, str]] = Counter()
    listening = True

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | os.PathLike):
            counts[event, os.fspath(arguments[0])] += 1

    def look_up(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        counts["stat", str(path)] += 1
        return stat(path, *rest, **more)

    stat = os.stat
    monkeypatch.setattr(os, "stat", look_up)
    sys.addaudithook(hear)
    yield counts
    listening = False


def per_run(calls: Counter[tuple[str, str]], folder: Path, runs: int) -> tuple[float, int]:
    """Return the calls about run folders per run, and the most often a file was opened."""
    mine = {key: count for key, count in calls.items() if key[1].startswith(f"{folder / 'runs'}/")}
    opened = Counter({path: count for (kind, path), count in mine.items() if kind == "open"})
    return sum(mine.values()) / runs, max(opened.values())


def test_calls_per_run_do_not_grow(
    make_study: Callable[..., Path], recipe: type, tmp_path: Path, calls: Counter[tuple[str, str]]
) -> None:
    found = []
    for seeds in (8, 32):
        folder = make_study(tmp_path / str(seeds), recipe(arms=3, seeds=seeds, evaluations=2))
        calls.clear()
        summary = summarize(folder)
        in_summary = per_run(calls, folder, 3 * seeds)
        assert in_summary[1] == 1  # run.json, result.json, metrics.jsonl and examples.npy of a run: each once
        summary.write(folder)
        read_study(folder)
        found.append((in_summary[0], per_run(calls, folder, 3 * seeds)[0]))
    assert found[0] == pytest.approx(found[1], abs=0.3)
    assert found[1][0] <= 4.1
    assert found[1][1] <= 10


def test_states_of_a_new_study_take_one_listing(tmp_path: Path, calls: Counter[tuple[str, str]]) -> None:
    study = StudyFolder(tmp_path)
    names = [f"{place:016x}" for place in range(50)]
    calls.clear()
    assert study.states(names) == dict.fromkeys(names)
    assert sum(count for (_, path), count in calls.items() if path.startswith(str(tmp_path))) == 1


def test_a_large_study_is_drawn_in_part_and_says_so(
    make_study: Callable[..., Path], recipe: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path / "study", recipe(arms=2, seeds=22, evaluations=2))
    everything = write_report(folder).read_text()
    assert "The pictures show" not in everything
    assert "seed 21:" in everything
    monkeypatch.setattr(study_folder, "MOST_DRAWN", 30)
    page = write_report(folder).read_text()
    assert "The pictures show the first 20 of 22 seeds and their medians; all other numbers are over all seeds." in page
    assert "seed 19:" in page
    assert "seed 20:" not in page
    island = json.loads(page.split('id="summary">')[1].split("</script>")[0])
    assert [len(arm["runs"]) for arm in island["arms"]] == [20] * 2
    assert [arm["mean"] for arm in island["arms"]] == [arm.mean for arm in summarize(folder).arms]
    assert "beside it in the folder of the study" in page


def test_sums_in_parts_have_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    arm, base = rng.standard_normal((2, 37, 11)).astype(np.float32)
    whole = arm.astype(np.float64) - base
    monkeypatch.setattr("normscope.results.aggregates._COUNTS_AT_ONCE", 40)
    assert (sum_over_seeds(arm, base) / 37 == whole.mean(axis=0)).all()
    means = whole.mean(axis=0)
    squares = sum_over_seeds(arm, base, lambda part: (part - means) ** 2) / 36
    assert (squares == whole.var(axis=0, ddof=1)).all()


def test_resamples_in_parts_are_those_of_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).standard_normal(23)
    intervals = []
    for at_once in (2**22, 100):
        monkeypatch.setattr("normscope.results.statistics._AT_ONCE", at_once)
        intervals.append(bca_interval(differences, level=0.95, rng=np.random.default_rng(2)))
    assert intervals[0] == intervals[1]


def test_signs_eight_at_a_time() -> None:
    rng = np.random.default_rng(3)
    # Powers of two: the sum names the signs; the zeros behind them make it many values.
    sums = flipped_sums(np.concatenate([2.0 ** np.arange(11), np.zeros(246)]), 4096, rng)
    signs = ((sums + 2**11 - 1) / 2).astype(np.int64)
    assert ((signs >= 0) & (signs < 2**11)).all()
    assert len(np.unique(signs)) > 1700  # of 2048, each drawn twice on average: 1771 are expected
    assert abs(sums.mean()) < 4 * sums.std() / 64
    values = np.random.default_rng(4).standard_normal(400) + 0.1
    p = sign_flip_p(values, rng=rng)
    from scipy import special

    z = values.sum() / np.sqrt((values**2).sum())
    assert p == pytest.approx(2 * special.ndtr(-abs(z)), rel=0.1)


GOOD = [
    (RUN, {"schema": 1, "seed": 3, "learning_rate": 0.1, "versions": {"torch": "2"}, "counts": {"a": 1}}),
    (RESULT, {"schema": 1, "state": "done", "value": 1.5, "seeds": {"torch": "a"}, "measures": {"b": 0.5}}),
    (ROW, {"step": 3, "valid_loss": 0.5, "gradient": {"norm": [0.1, 0.2]}}),
    (CARD["arms"], [{"label": "a", "norm": "b", "placement": None, "arguments": {}, "learning_rate": 0.1, "tuned": True,
                     "runs": {"0": "x"}}]),
]  # fmt: skip
BAD = [None, True, -1, 2**70, 1e400, "a", "\ud800", [], [1.0], [1, 2, 3], {}, {"a": []}, {"\ud800": "a"}, {"-1": "a"}]


@pytest.mark.parametrize(("shape", "content"), GOOD)
def test_the_quick_test_of_a_shape_accepts_what_the_slow_one_does(shape: Any, content: Any) -> None:
    def accepts(changed: Any) -> bool:
        try:
            check(changed, shape, "file", "root")  # with a place in the file it does not use the quick test
        except ValueError:
            return False
        return True

    rows = content if isinstance(content, list) else [content]
    assert _test_of(shape)(content)
    assert accepts(content)
    for row in rows:
        for key in row:
            for value in BAD:
                changed = {**row, key: value}
                changed = [changed] if isinstance(content, list) else changed
                assert _test_of(shape)(changed) == accepts(changed), (key, value)
            short = {name: kept for name, kept in row.items() if name != key}
            short = [short] if isinstance(content, list) else short
            assert _test_of(shape)(short) == accepts(short), key
