"""Studies with planned looks: what goes on, what ends them, and that no interruption changes a number."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import normscope
from normscope.cli.compare import compare as command
from normscope.results import Summary, summarize
from normscope.results.look_plan import DEFAULT_SPENDING, LookPlan, Spending
from normscope.results.look_state import EarlierLooks
from normscope.results.matching import RESAMPLING_SEED
from normscope.results.sequential import boundary, continued_p, repeated_interval, sequential_p
from normscope.results.store import StudyFolder, write_json
from normscope.results.summary import read_summary, runs_to_look
from normscope.studies import compare
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec, record
from normscope.studies.plan import plan as plan_runs
from normscope.studies.repeat import call_that_repeats
from normscope.studies.spec import StudySpec, make_study
from support.command_line import CommandLine
from support.study_folders import Study, read

NORMS = ["layer_norm", "none", "rms_norm"]
SEVEN = ["none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "rms_norm", "batch_norm"]
TIMES = {"seconds", "seconds_to_baseline", "step_ms", "minutes", "command"}


def value_of(spec: RunSpec, effects: Mapping[str, float], spread: float = 0.2) -> float:
    """Draw the value of a run: the seed's own part, the arm's effect, and the rest."""
    common = np.random.default_rng([9, spec.seed]).normal(5.0, 1.0)
    own = np.random.default_rng([spec.seed, *spec.label.encode(), round(1e6 * spec.recipe.learning_rate)])
    return float(common + effects.get(spec.label, 0.0) + own.normal(0.0, spread))


@dataclass
class Planted:
    """Writes runs whose values are drawn around planted effects, one after another."""

    effects: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.2
    fails: Callable[[RunSpec], bool] = lambda spec: False
    failure: str = "diverged"
    """State of the runs that fail."""
    stops_at: int | None = None
    """Number of runs after which it is interrupted."""
    after_run: Callable[[StudyFolder], None] = lambda study: None
    computed: list[tuple[str, int]] = field(default_factory=list)

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        for spec in specs:
            run = study.run(spec.id)
            if run.finished():
                continue
            if self.stops_at is not None and len(self.computed) >= self.stops_at:
                raise KeyboardInterrupt
            write_json(run.description, {"schema": 1, **spec.identity()})
            state = self.failure if self.fails(spec) else "done"
            value = None if state != "done" else value_of(spec, self.effects, self.spread)
            write_json(run.result, {"schema": 1, "state": state, "value": value, "steps": 4, "seconds": 60.0})
            self.computed.append((spec.label, spec.seed))
            self.after_run(study)
            callback(RunEvent(spec=spec, state=state, step=4))


def study_of(looks: Sequence[int] = (6, 8, 10), norms: Sequence[str] = NORMS, **options: Any) -> StudySpec:
    return make_study("digits", norms=norms, looks=looks, steps=4, **options)


def numbers(content: Any) -> Any:
    """Leave out what a clock measured, and the command that was typed."""
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in TIMES}
    return [numbers(value) for value in content] if isinstance(content, list) else content


def arms_of(summary: Summary) -> dict[str, Any]:
    return {arm.label: arm for arm in summary.arms if arm.label != summary.baseline}


def seeds_of(engine: Planted, label: str) -> list[int]:
    return sorted(seed for name, seed in engine.computed if name == label)


def test_a_decided_arm_costs_no_further_runs(tmp_path: Path) -> None:
    engine, seen = Planted({"none": 3.0, "rms_norm": 0.35}, spread=0.3), []
    summary = compare(study_of((8, 10, 12)), out=tmp_path, engine=engine, after_look=seen.append)
    arms = arms_of(summary)
    assert (arms["none"].verdict, arms["none"].decided_at, arms["none"].pairs) == ("worse", 8, 8)
    assert seeds_of(engine, "none") == [*range(8)]
    assert seeds_of(engine, "rms_norm") == seeds_of(engine, "layer_norm") == [*range(12)]
    assert [look.pairs for look in arms["none"].looks] == [8]
    assert [look.pairs for look in arms["rms_norm"].looks] == [8, 10, 12]
    assert summary.looks is not None
    assert (summary.looks.pairs, summary.looks.reached, summary.looks.next) == ((8, 10, 12), 3, None)
    assert summary.complete
    assert [each.looks.reached for each in seen] == [0, 1, 2]
    # The baseline's later seeds are not the decided arm's: its numbers stay those of its look.
    first = arms_of(seen[1])["none"]
    assert (first.difference, first.interval, first.p_adjusted) == (
        arms["none"].difference, arms["none"].interval, arms["none"].p_adjusted,
    )  # fmt: skip
    assert arms["none"].unpaired == ()
    last = arms["rms_norm"].looks[-1]
    assert (last.difference, last.interval) == (arms["rms_norm"].difference, arms["rms_norm"].interval)
    assert read_summary(tmp_path) == summary
    head, *rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert head.split(",")[-14:-12] == ["looks", "decided_at"]
    assert {row.count(",") for row in rows if '"' not in row} <= {head.count(",")}


def test_the_next_look_is_named_with_its_cost(tmp_path: Path) -> None:
    engine = Planted({"none": 3.0, "rms_norm": 0.35}, spread=0.3)
    seen: list[Summary] = []
    compare(study_of((8, 10, 12)), out=tmp_path, engine=engine, after_look=seen.append)
    words = [arms_of(summary)["rms_norm"].verdict for summary in seen]
    assert words[0] == "not enough evidence (first look at 8 seeds: 24 runs)"
    assert words[1] == "not enough evidence (next look at 10 seeds: 4 runs, about 4 minutes)"
    assert seen[1].looks is not None
    assert seen[1].looks.next is not None
    assert (seen[1].looks.next.runs, seen[1].looks.next.minutes) == (4, 4.0)
    assert not seen[1].complete
    assert arms_of(seen[0])["rms_norm"].p is None


@pytest.mark.parametrize(
    ("effects", "spread", "ended", "words"),
    [
        ({"none": 3.0, "rms_norm": -2.0}, 0.2, "decided", "better"),
        ({"none": 3.0}, 0.02, "decided", "equivalent"),
        ({"none": 3.0, "rms_norm": 0.3}, 0.4, "maximum", "at the maximum of 12 seeds; about "),
        ({"none": 3.0}, 3.0, "hopeless", "stopped at 8 of 12 seeds: a decision is unlikely"),
    ],
)
def test_how_a_study_ends(tmp_path: Path, effects: Any, spread: float, ended: str, words: str) -> None:
    summary = compare(study_of((8, 10, 12)), out=tmp_path, engine=Planted(effects, spread))
    assert summary.looks is not None
    assert (summary.looks.ended, summary.looks.next, summary.complete) == (ended, None, True)
    assert words in arms_of(summary)["rms_norm"].verdict


def test_the_time_is_up_between_runs_and_the_same_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = {"none": 3.0, "rms_norm": 0.35}
    whole = compare(study_of((8, 10, 12)), out=tmp_path / "whole", engine=Planted(effects, 0.3))
    out = tmp_path / "cut"
    now = [0.0]
    monkeypatch.setattr(sys.modules["normscope.studies.deadline"].time, "monotonic", lambda: now[0])
    slow = Planted(effects, 0.3, after_run=lambda study: now.append(now.pop() + 60.0))
    first = compare(study_of((8, 10, 12)), out=out, engine=slow, minutes=8.5)
    assert len(slow.computed) == 9
    assert first.looks is not None
    assert (first.looks.ended, first.complete) == ("time", False)
    assert read_summary(out) == first
    assert "first look at 8 seeds" in first.arms[1].verdict
    again = compare(study_of((8, 10, 12)), out=out, engine=Planted(effects, 0.3), minutes=1000)
    assert numbers(again.to_dict()) == numbers(whole.to_dict())
    limits: tuple[dict[str, Any], ...] = ({"minutes": 3.0}, {"keep_going": True})
    for options in limits:
        (name,) = options
        with pytest.raises(ValueError, match=f"^{name} is for studies with looks: add until_decided, or give looks"):
            compare("digits", seeds=2, out=tmp_path / "other", **options)
    with pytest.raises(ValueError, match=r"minutes must be above 0, got -1"):
        compare(study_of(), minutes=-1, out=tmp_path / "other")


def test_an_arm_goes_on_against_the_odds_if_asked_and_stays_in_the_summary(tmp_path: Path) -> None:
    spec, engine = study_of((8, 10, 12)), Planted({"none": 3.0}, 3.0)
    compare(spec, out=tmp_path, engine=engine)
    assert runs_to_look(tmp_path) == []
    assert len(runs_to_look(tmp_path, keep_going=True)) > 0
    summary = compare(spec, out=tmp_path, engine=engine, keep_going=True)
    assert summary.looks is not None
    assert summary.looks.ended == "maximum"
    assert summarize(tmp_path) == summary


def test_interruptions_change_no_number(tmp_path: Path) -> None:
    effects, moments = {"none": 3.0, "rms_norm": 0.35}, random.Random(4)
    whole = compare(study_of((8, 10, 12)), out=tmp_path / "whole", engine=Planted(effects, 0.3))
    out, stops = tmp_path / "cut", 0
    while True:
        engine = Planted(effects, 0.3, stops_at=moments.randrange(1, 5))
        try:
            summary = compare(study_of((8, 10, 12)), out=out, engine=engine)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 5
    assert numbers(summary.to_dict()) == numbers(whole.to_dict())
    assert numbers(json.loads((out / "summary.json").read_text())) == numbers(
        json.loads((tmp_path / "whole" / "summary.json").read_text())
    )


def test_nothing_is_claimed_between_looks(tmp_path: Path) -> None:
    claims: list[tuple[int, dict[str, str]]] = []

    def after_run(study: StudyFolder) -> None:
        summary = summarize(study.path)
        assert summary.looks is not None
        words = {label: arm.verdict for label, arm in arms_of(summary).items()}
        for label, arm in arms_of(summary).items():
            assert arm.pairs == (arm.looks[-1].pairs if arm.looks else arm.pairs)
            if words[label].startswith(("better", "worse", "equivalent")):
                assert arm.decided_at in (8, 10, 12)
            else:
                assert words[label].startswith("not enough evidence (")
        claims.append((summary.looks.reached, words))

    compare(
        study_of((8, 10, 12)), out=tmp_path, engine=Planted({"none": 9.0, "rms_norm": 1.5}, 1.2, after_run=after_run)
    )
    reached = [look for look, _ in claims]
    assert reached == sorted(reached)
    assert claims[22][0] == 0
    assert {words["none"] for look, words in claims if look > 0} == {"worse"}


def test_failed_runs_stop_their_arm_and_a_failed_baseline_all(tmp_path: Path) -> None:
    def fails(spec: RunSpec) -> bool:
        return (spec.label, spec.seed) == ("none", 3)

    engine = Planted({"rms_norm": 0.35}, 0.3, fails=fails)
    summary = compare(study_of((8, 10, 12)), out=tmp_path / "arm", engine=engine)
    arm = arms_of(summary)["none"]
    assert arm.verdict == "fails to train in 1 of 8 seeds; stopped at 8 seeds, since no claim can follow"
    assert (arm.looks, arm.p, arm.failures, arm.pairs) == ((), None, 1, 7)
    assert seeds_of(engine, "none") == [*range(8)]
    assert seeds_of(engine, "rms_norm") == [*range(12)]
    engine = Planted({"none": 0.3}, 0.6, lambda spec: (spec.label, spec.seed) == ("layer_norm", 9), "failed")
    summary = compare(study_of((8, 10, 12), ["layer_norm", "none"]), out=tmp_path / "base", engine=engine)
    assert "the baseline could not be computed in 1 of 10 seeds; stopped at 10 seeds" in summary.arms[1].verdict
    assert summary.looks is not None
    assert (summary.looks.ended, summary.looks.reached) == ("decided", 2)
    # Runs that failed are computed again if asked, and the arm goes on.
    spec, engine = study_of((8, 10, 12), ["layer_norm", "none"]), Planted({"none": 0.3}, 0.6)
    assert compare(spec, out=tmp_path / "base", engine=engine) == summary
    again = compare(spec, out=tmp_path / "base", engine=engine, retry_failed=True)
    assert engine.computed[0] == ("layer_norm", 9)
    assert "could not" not in again.arms[1].verdict
    whole = compare(spec, out=tmp_path / "whole", engine=Planted({"none": 0.3}, 0.6))
    assert numbers(again.to_dict()) == numbers(whole.to_dict())


def test_the_pairs_that_failures_leave_are_not_those_of_an_earlier_look(tmp_path: Path) -> None:
    engine = Planted({"none": 0.3}, 0.3, fails=lambda spec: spec.label == "none" and spec.seed >= 8)
    spec = study_of((8, 10, 12), NORMS[:2], margin=0.05)
    arm = arms_of(compare(spec, out=tmp_path, engine=engine, keep_going=True))["none"]
    assert [look.pairs for look in arm.looks] == [8]
    assert (arm.pairs, arm.failures, arm.p, arm.p_adjusted, arm.interval) == (8, 2, None, None, None)


def test_tuned_and_untuned_arms_are_one_family(tmp_path: Path) -> None:
    class Trials(Planted):
        def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
            super().run(specs, study, callback)
            for spec in specs:
                if spec.split.endswith("tune"):
                    rate = spec.recipe.learning_rate
                    result = {"schema": 1, "state": "done", "value": 1 / rate, "steps": 4, "seconds": 60.0}
                    write_json(study.run(spec.id).result, result)

    engine = Trials({"none": 3.0, "rms_norm": 0.35}, 0.3)
    summary = compare(study_of((8, 10, 12), tune=True), out=tmp_path, engine=engine)
    assert summary.untuned is not None
    arms = [arm for arm in (*summary.arms, *summary.untuned) if arm.label != "layer_norm"]
    assert len(arms) == 4
    worst = max(arms, key=lambda arm: -1 if not arm.looks else arm.looks[0].p_adjusted)
    assert worst.looks
    assert all(arm.looks for arm in arms)
    smallest = min(arms, key=lambda arm: arm.p if arm.p is not None else 1.0)
    assert smallest.p is not None
    assert smallest.p_adjusted == pytest.approx(4 * smallest.p)
    assert len({run.id for arm in arms for run in arm.runs}) == sum(len(arm.runs) for arm in arms)


def test_the_looks_are_written_before_the_first_run_and_belong_to_the_question(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(study_of(spending="obrien_fleming"), out=tmp_path, engine=Planted(stops_at=0))
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["looks"] == {"pairs": [6, 8, 10], "spending": "obrien_fleming"}
    assert card["seeds"] == [*range(10)]
    assert not list(tmp_path.glob("runs/*/result.json"))
    ids = {study_of().id, study_of((6, 9, 10)).id, study_of(spending="obrien_fleming").id, study_of((6, 8, 9)).id}
    assert len({*ids, make_study("digits", norms=NORMS, seeds=10, steps=4).id}) == 5
    assert card["id"] in ids


def test_studies_without_looks_are_what_they_were(tmp_path: Path) -> None:
    assert make_study("digits", splits="published").id == "f0bdad6c91"
    tuned = make_study("digits", norms=["none", "layer_norm"], seeds=[3, 1], tune=True, splits="published")
    assert tuned.id == "80b0bd4b5a"
    labels = ("layer_norm", "ada_norm", "rms_norm", "none")
    study, rng = Study(tmp_path, labels=labels), np.random.default_rng(0)
    for label, effect in zip(labels, (0, -1, 0.1, 0.0), strict=True):
        study.fill(label, 5 + effect + rng.normal(0, 0.3, 10))
    study.run("none", 3, state="diverged")
    read(study).write(tmp_path)
    # Digests of the files as they were before there were looks.
    assert hashlib.sha256((tmp_path / "summary.json").read_bytes()).hexdigest() == (
        "70e927fd33377d241de01d7882ef59b799d2f41ea32518b8eee6f735fc1658a1"
    )
    assert hashlib.sha256((tmp_path / "summary.csv").read_bytes()).hexdigest() == (
        "938985598e64c679edda571773996a7369850beb17726654189f42a1ad94fd38"
    )


def test_more_seeds_after_results_are_exploratory(tmp_path: Path) -> None:
    effects = {"none": 3.0, "rms_norm": 0.35}
    compare(study_of((8, 10, 12)), out=tmp_path, engine=Planted(effects, 0.3))
    engine = Planted(effects, 0.3)
    summary = compare(study_of((8, 10, 12, 16)), out=tmp_path, engine=engine)
    assert summary.changes == (12,)
    assert summary.caution == "exploratory: 4 of 16 seeds came after results could be seen"
    assert arms_of(summary)["none"].verdict == f"worse ({summary.caution})"
    assert seeds_of(engine, "none") == []
    fixed = compare(make_study("digits", norms=NORMS, seeds=17, steps=4), out=tmp_path, engine=Planted(effects, 0.3))
    assert (fixed.looks, fixed.changes) == (None, (12, 16))


def test_a_plan_that_is_changed_before_its_maximum_goes_on_at_the_conditional_level(tmp_path: Path) -> None:
    effects = {"none": 3.0, "rms_norm": 0.8}
    with pytest.raises(KeyboardInterrupt):
        compare(study_of((8, 10, 12)), out=tmp_path, engine=Planted(effects, 0.6, stops_at=24))
    before = arms_of(summarize(tmp_path))
    assert before["none"].verdict == "worse"
    summary = compare(study_of((8, 10, 14, 18)), out=tmp_path, engine=Planted(effects, 0.6))
    arms, looks = arms_of(summary), summary.looks
    assert looks is not None
    # The looks before the earlier maximum are left out: the conditional level depends on all pairs up to there.
    assert (looks.pairs, summary.changes) == ((8, 12, 14, 18), ())
    assert looks.continues == EarlierLooks(pairs=(8, 10, 12), spending=DEFAULT_SPENDING, seen=8)
    caution = "exploratory: the plan of 12 seeds was changed after 8"
    assert summary.caution == f"{caution}, but for differences, which are tested at the conditional level"
    assert (arms["none"].verdict, arms["none"].p, arms["none"].interval) == (
        "worse", before["none"].p, before["none"].interval,
    )  # fmt: skip
    arm = arms["rms_norm"]
    assert (arm.verdict, arm.decided_at) == ("worse (at the conditional level)", arm.pairs)
    values = [{run.seed: run.value or 0.0 for run in each.runs} for each in (arm, summary.arms[0])]
    differences = np.array([values[0][seed] - values[1][seed] for seed in range(arm.pairs)])
    _, generator = np.random.default_rng([RESAMPLING_SEED, *b"rms_norm"]).spawn(2)
    later, earlier = LookPlan((12, 14, 18)), LookPlan((8, 10, 12))
    assert arm.p == continued_p(differences, earlier, later, seen=8, rng=generator)[-1]
    assert read_summary(tmp_path) == summary
    # A second change is exploratory.
    again = compare(study_of((8, 10, 14, 20)), out=tmp_path, engine=Planted(effects, 0.6))
    assert again.changes == (18,)
    assert again.looks is not None
    assert again.looks.continues is None
    assert again.caution == "exploratory: 2 of 20 seeds came after results could be seen"


@pytest.mark.parametrize(
    # One run of the next look has ended; or the seeds up to the look would be others.
    ("runs", "seeds"), [(25, None), (24, [*range(20, 26), *range(12)])], ids=["a later run", "other seeds"]
)  # fmt: skip
def test_a_plan_that_was_changed_after_later_results_is_exploratory(tmp_path: Path, runs: int, seeds: Any) -> None:
    effects = {"rms_norm": 0.3}
    with pytest.raises(KeyboardInterrupt):
        compare(study_of((8, 10, 12)), out=tmp_path, engine=Planted(effects, 0.6, stops_at=runs))
    assert summarize(tmp_path).looks.reached == 1  # type: ignore[union-attr]
    summary = compare(study_of((8, 10, 14, 18), seeds=seeds), out=tmp_path, engine=Planted(effects, 0.6))
    assert (summary.changes, summary.looks and summary.looks.continues) == ((12,), None)
    assert summary.caution == "exploratory: 6 of 18 seeds came after results could be seen"


def test_pairs_count_in_the_order_of_the_seeds_and_all_numbers_rest_on_the_same_signs(tmp_path: Path) -> None:
    seeds, plan = [*range(29, 9, -1), 3], LookPlan((8, 18, 21), "pocock")
    spec = study_of(plan.pairs, NORMS[:2], seeds=seeds, spending=plan.spending)
    arm = arms_of(compare(spec, out=tmp_path, engine=Planted({"none": 0.1}, 0.3)))["none"]
    values = [{run.seed: value_of(run, {"none": 0.1}, 0.3) for run in plan_runs(spec) if run.label == label}
              for label in ("none", "layer_norm")]  # fmt: skip
    differences = np.array([values[0][seed] - values[1][seed] for seed in seeds])
    for look in arm.looks:
        part = differences[: look.pairs]
        _, signs = np.random.default_rng([RESAMPLING_SEED, *b"none"]).spawn(2)
        assert look.p_adjusted == sequential_p(part, plan, rng=signs)[-1]
        assert look.interval == repeated_interval(part, plan, level=0.95)[-1]
        _, signs = np.random.default_rng([RESAMPLING_SEED, *b"none"]).spawn(2)
        low, high = look.interval
        reach = look.difference - low if look.difference > 0 else high - look.difference
        assert look.boundary == max(boundary(part, plan, alpha=0.05, rng=signs)[-1] or 0.0, reach)
    assert len(arm.looks) >= 2


def test_a_card_whose_looks_were_edited_is_refused(tmp_path: Path) -> None:
    compare(study_of(norms=NORMS[:2]), out=tmp_path, engine=Planted({"none": 3.0}))
    card = json.loads((tmp_path / "card.json").read_text())
    for looks, words in (
        ({"pairs": [6, 6, 10], "spending": "pocock"}, "looks must be two or more ascending numbers"),
        ({"pairs": [6, 8], "spending": "pocock"}, "has 10 seeds, expected those of its last look, 8"),
        ({"pairs": [6, 10], "spending": "all"}, "looks.spending"),
    ):
        write_json(tmp_path / "card.json", card | {"looks": looks})
        with pytest.raises(ValueError, match=rf"card\.json.*{words}"):
            summarize(tmp_path)


COMMAND = [sys.executable, "-m", "normscope.cli.main", "compare", "digits", "--norms", "layer_norm,none,rms_norm"]
LOOKS = ["--looks", "6,7,8", "--steps", "150", "--margin", "0.5", "--workers", "2"]


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *LOOKS, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("options", "pairs", "seeds"),
    [
        ({"until_decided": True}, (10, 20, 30), range(30)),
        ({"until_decided": True, "max_seeds": 22}, (10, 20, 22), range(22)),
        ({"until_decided": True, "max_seeds": 60}, (10, 20, 30, 45, 60), range(60)),
        ({"until_decided": True, "seeds": range(100, 118)}, (10, 18), range(100, 118)),
        ({"until_decided": True, "seeds": range(100, 140), "max_seeds": 20}, (10, 20), range(100, 120)),
        ({"looks": [8, 12]}, (8, 12), range(12)),
        ({"looks": (8, 12), "until_decided": True, "seeds": 16}, (8, 12, 16), range(16)),
        ({"looks": np.array([8, 12, 20]), "max_seeds": 14}, (8, 12, 14), range(14)),
        # With twelve comparisons, no differences could be claimed at ten pairs.
        ({"until_decided": True, "norms": SEVEN, "tune": True, "spending": "obrien_fleming"}, (20, 30), range(30)),
        ({"seeds": 4}, None, range(4)),
        ({}, None, range(10)),
    ],
)
def test_the_looks_that_options_stand_for(options: Any, pairs: Any, seeds: Sequence[int]) -> None:
    spec = make_study("digits", **{"norms": NORMS, **options})
    assert spec.looks == (pairs and LookPlan(pairs, options.get("spending", DEFAULT_SPENDING)))
    assert spec.seeds == tuple(seeds)
    assert eval(call_that_repeats(spec, None).replace("compare", "make_study"), {"normscope": normscope}) == spec


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_seeds": 20}, "max_seeds is for studies with looks: add until_decided, or give looks"),
        ({"spending": "pocock"}, "spending is for studies with looks"),
        ({"looks": [8, 12], "seeds": 10}, "12 pairs need as many seeds, got 10"),
        ({"until_decided": True, "seeds": 20, "max_seeds": 30}, "30 pairs need as many seeds, got 20"),
        ({"until_decided": True, "max_seeds": 9}, "begin at 10 pairs, got a maximum of 9: choose more max_seeds"),
        ({"looks": [6, 7], "norms": SEVEN}, "7 pairs cannot claim anything with 6 comparisons: 8 at least would do"),
        ({"looks": [4, 12]}, "nothing is claimed below 6 pairs, got a look at 4"),
        ({"looks": [12, 8]}, r"looks must ascend, such as 10, 20, 30, got \(12, 8\)"),
        ({"looks": [8]}, "ascending"),
        ({"looks": [8, 12], "norms": ["none"]}, "needs two arms at least"),
    ],
)
def test_looks_that_make_no_plan_are_refused_with_a_way_out(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_study("digits", **{"norms": NORMS, **options})


def test_the_command_line_tests_at_looks_and_says_what_comes_next(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "compare",
        "digits",
        "--norms",
        "layer_norm,rms_norm",
        "--looks",
        "6,7",
        "--steps",
        "4",
        "--margin",
        "0.001",
    ]
    words += ["--workers", "1", "--keep-going", "--out", str(tmp_path / "study")]
    run = CommandLine(capfd)
    first = run(*words, "--minutes", "0.0001")
    assert first.returncode == 0, first.stderr
    assert "2 arms x 7 seeds at most, looks at 6, 7" in first.stdout
    # The program is named as it was started.
    assert re.search(r"The time is up\. Go on with:  .* compare digits", first.stdout)
    assert "not enough evidence (first look at 6 seeds: " in " ".join(first.stdout.split())
    told = run(*words)
    assert told.returncode == 0, told.stderr
    assert "look 1 of 2, at 6 seeds: " in told.stdout
    assert "Look 1 of 2, at 6 seeds" in told.stdout
    content = json.loads(run(*words, "--json").stdout)
    assert content["looks"]["reached"] == 2


@pytest.mark.slow
def test_killed_and_shared_studies_end_with_the_same_numbers(tmp_path: Path) -> None:
    def finish(*folders: Path) -> list[Any]:
        processes = [start(folder) for folder in folders]
        for process in processes:
            words, _ = process.communicate(timeout=1800)
            assert process.returncode == 0, words
        return [numbers(json.loads((folder / "summary.json").read_text())) for folder in folders]

    (whole,) = finish(tmp_path / "whole")
    assert whole["looks"]["reached"] > 1
    moments, results = random.Random(5), tmp_path / "killed" / "runs"
    for number in range(2):
        with start(tmp_path / "killed") as process:
            # By results and not by the clock, so that every kill meets a study that is going, on any machine.
            wanted = len(list(results.glob("*/result.json"))) + moments.randint(0, 1)
            while len(list(results.glob("*/result.json"))) < wanted and process.poll() is None:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 0.1))
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL) if number % 2 else os.kill(process.pid, signal.SIGKILL)
    assert finish(tmp_path / "killed") == [whole]
    assert finish(tmp_path / "both", tmp_path / "both") == [whole, whole]


@pytest.mark.slow
def test_false_claims_over_whole_studies(tmp_path: Path) -> None:
    """At most 5 % of studies without any difference claim one, and of those at the margin say that there is none."""
    studies, arms = 150, ("none", "rms_norm")
    spec = make_study("digits", norms=["layer_norm", *arms], looks=(7, 9), steps=4, margin=1.0)
    card, rng = record(spec, command="", tuned=None, tuning=None), np.random.default_rng(11)
    for effect in (0.0, 1.0):
        wrong = {"better": 0, "worse": 0, "equivalent": 0}
        for number in range(studies):
            study = StudyFolder(tmp_path / f"{effect}-{number}")
            write_json(study.card, card)
            base = rng.standard_t(4, size=9)
            values = {label: base + effect + rng.normal(size=9) for label in arms} | {"layer_norm": base}
            while needed := set(runs_to_look(study.path)):
                for entry in card["arms"]:
                    for seed, identity in entry["runs"].items():
                        if identity in needed:
                            about = {"schema": 1, "label": entry["label"], "seed": int(seed)}
                            write_json(study.run(identity).description, about)
                            value = float(values[entry["label"]][int(seed)])
                            write_json(study.run(identity).result, {"schema": 1, "state": "done", "value": value})
            verdicts = [arm.verdict for arm in arms_of(summarize(study.path)).values()]
            for word in wrong:
                wrong[word] += any(verdict.startswith(word) for verdict in verdicts)
        print(f"effect {effect}: {wrong} of {studies} studies with {len(arms)} arms")
        # Three standard errors above 5 % of the studies; equivalence is tested arm by arm.
        assert wrong["better"] + (wrong["worse"] if effect == 0 else 0) <= 0.05 * studies + 8
        assert effect == 0 or wrong["equivalent"] <= len(arms) * 0.05 * studies + 11


def test_the_command_line_takes_every_spending() -> None:
    choices = next(get_args(each) for each in get_args(get_type_hints(command)["spending"]) if get_args(each))
    assert choices == get_args(Spending)
