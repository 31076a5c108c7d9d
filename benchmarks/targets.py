"""How often verdicts on times to a target err: ``./run bench targets --out docs/results/targets``.

1,000 simulated studies a cell. A run's validation loss falls to a floor with noise at every evaluation; the runs
of a seed share a difficulty, and each has a speed and a floor of its own. The tests, intervals and Holm's correction
are the library's. What ended is not computed again: every cell has a generator of its own.
"""

import argparse
import math
import platform
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from normscope import __version__
from normscope.files import write_atomically
from normscope.results.look_plan import LookPlan, Spending
from normscope.results.sequential import DEFAULT_SPENDING
from normscope.results.statistics import holm, sign_flip_p
from normscope.results.store import SCHEMA, read_json, write_json
from normscope.results.targets.record import BASELINE, Target
from normscope.results.targets.times import Curve, reach_all
from normscope.results.targets.verdicts import Race, claim, compare_curves

STUDIES, ALPHA, MARGIN, STEPS = 1000, 0.05, 1.1, 1000
QUICK = {"draws": 2**10 - 1, "levels": ALPHA / np.arange(8, 0, -1) * (1 - 1e-9)}
"""Fewer sign vectors at looks, and the levels of Holm's steps only."""
NOTHING = {"draws": 1, "levels": np.array([0.999])}
"""No test, for studies of which no interval lies beside 1: nothing could be claimed."""
FIXED = 1.5
"""A target that a run of usual speed reaches after half of its updates."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of the simulation."""

    what: str
    pairs: tuple[int, ...] = (10,)
    """Looks; one of them for a fixed number of seeds."""
    speeds: tuple[float, ...] = (1.0,)
    """Speed of each arm over that of the baseline."""
    targets: tuple[Target, ...] = (FIXED,)
    slow: float = 1.0
    """Factor of everybody's speed: at 0.6 about half of the runs never reach the fixed target."""
    floor: float = 0.0
    """How much higher an arm's floor is than the baseline's."""
    evaluations: int = 20
    skewed: bool = False
    """Whether a run's own difference in speed is exponential instead of Gaussian."""
    spread: float = 0.15
    """Its standard deviation, in logarithms."""
    diverged: float = 0.0
    """Share of runs that end somewhere without a value."""
    spending: Spending = DEFAULT_SPENDING

    @property
    def plan(self) -> LookPlan | None:
        """The looks; None for a fixed number of seeds."""
        return LookPlan(self.pairs, self.spending) if len(self.pairs) > 1 else None


def draw_values(
    cell: Cell, difficulties: np.ndarray, speed: float, floor: float, rng: np.random.Generator, horizon: int = 1
) -> np.ndarray:
    """Draw the validation losses of one run per difficulty, ``[runs, evaluations]``, over ``horizon`` trainings."""
    count = len(difficulties)
    own = cell.spread * (rng.exponential(size=count) - 1 if cell.skewed else rng.normal(size=count))
    # At a rate of 1 the loss falls from 3 to 1.5 in the middle of the training.
    rates = speed * cell.slow * np.exp(own + difficulties) * math.log(2) / (STEPS / 2)
    evaluations = cell.evaluations * horizon
    steps = np.arange(1, evaluations + 1) * (STEPS // cell.evaluations)
    noise = 0.03 * rng.normal(size=(count, 1)) + 0.02 * rng.normal(size=(count, evaluations))
    return 3 * np.exp(-rates[:, None] * steps) + floor + noise


def draw_curves(
    cell: Cell, difficulties: np.ndarray, speed: float, floor: float, rng: np.random.Generator
) -> dict[int, Curve]:
    """Draw the curves of an arm by seed, some of which end early."""
    curves = {}
    for seed, values in enumerate(draw_values(cell, difficulties, speed, floor, rng)):
        end = int(rng.integers(1, len(values) + 1)) if rng.random() < cell.diverged else len(values)
        rows = tuple(
            ((place + 1) * (STEPS // cell.evaluations), float(value), None) for place, value in enumerate(values[:end])
        )
        state = "done" if end == len(values) else "diverged"
        curves[seed] = Curve(seed=seed, state=state, rows=rows, higher_is_better=False)
    return curves


@lru_cache(maxsize=256)
def truth(cell: Cell, speed: float, floor: float, target: Target) -> float:
    """Return the center of the logarithm of the ratio, if every run went on until it arrives, from 20,000 pairs.

    It is the median of the means of two pairs, which is what intervals from signed ranks are about.
    """
    rng = np.random.default_rng(1)
    cell = replace(cell, diverged=0.0)
    found = []
    for _ in range(20):
        difficulties = 0.3 * rng.normal(size=1000)
        base = draw_values(cell, difficulties, 1.0, 0.0, rng, 6)
        arm = draw_values(cell, difficulties, speed, floor, rng, 6)
        goals = base[:, : cell.evaluations].min(axis=1) if target == BASELINE else np.full(1000, float(target))
        times = [
            np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, np.inf)
            for hit in (arm <= goals[:, None], base <= goals[:, None])
        ]
        with np.errstate(invalid="ignore"):
            found.append(np.log(times[0]) - np.log(times[1]))
    ratios = np.concatenate(found)
    ratios = ratios[~np.isnan(ratios)]
    with np.errstate(invalid="ignore"):
        return float(np.nanmedian((ratios[::2][: len(ratios) // 2] + ratios[1::2]) / 2))


def study(cell: Cell, rng: np.random.Generator) -> dict[str, float]:
    """Simulate one study; an arm and target that are decided stop, and keep their p-value."""
    difficulties = 0.3 * rng.normal(size=cell.pairs[-1])
    kinds = ((1.0, 0.0), *((speed, cell.floor) for speed in cell.speeds))
    sides = [draw_curves(cell, difficulties, speed, floor, rng) for speed, floor in kinds]
    card = {"alpha": ALPHA, "steps": STEPS}
    races: list[tuple[int, Target]] = [(arm, target) for arm in range(1, len(sides)) for target in cell.targets]
    verdicts, stops = [""] * len(races), [0] * len(races)
    found: list[Any] = [None] * len(races)
    signs = int(rng.integers(2**32))

    def compare(place: int, pairs: int, options: dict[str, Any]) -> Race:
        arm, target = races[place]
        mine, theirs = ({seed: side[seed] for seed in range(pairs)} for side in (sides[arm], sides[0]))
        return compare_curves(card, mine, theirs, target, cell.plan, np.random.default_rng(signs), **options)

    tests: dict[str, Any] = {}
    if cell.plan is not None:
        ends = [compare(place, pairs, NOTHING).interval for place in range(len(races)) for pairs in cell.pairs]
        tests = QUICK if any(end is not None and (end[0] > 0 or end[1] < 0) for end in ends) else NOTHING
    for look, pairs in enumerate(cell.pairs):
        for place in range(len(races)):
            if not verdicts[place]:
                found[place], stops[place] = compare(place, pairs, tests), look
        adjusted = holm([each.p for each in found])
        for place in range(len(races)):
            verdicts[place] = verdicts[place] or claim(found[place], adjusted[place], alpha=ALPHA, margin=MARGIN)
    plain = [verdict.partition(" ")[0] for verdict in verdicts]
    intervals = [(-math.inf, math.inf) if each.interval is None else each.interval for each in found]
    true = [truth(cell, *kinds[arm], target) for arm, target in races]
    naive = holm([naive_p(sides[arm], sides[0], target, cell) for arm, target in races])
    return {
        "better": float(np.mean([verdict == "better" for verdict in plain])),
        "worse": float(np.mean([verdict == "worse" for verdict in plain])),
        "equivalent": float(np.mean([verdict == "equivalent" for verdict in plain])),
        "any_claim": float(any(verdict in ("better", "worse") for verdict in plain)),
        "naive": float(any((p or 0) < ALPHA for p in naive)),
        "censored": float(np.mean([run.step is None for each in found for run in each.runs])),
        "covered": float(np.mean([low <= at <= high for (low, high), at in zip(intervals, true, strict=True)])),
        "open": float(np.mean([math.isinf(low) or math.isinf(high) for low, high in intervals])),
        "pairs": float(np.mean([cell.pairs[stop] for stop in stops])),
    }


def naive_p(arm: dict[int, Curve], base: dict[int, Curve], target: Target, cell: Cell) -> float:
    """Flip the signs of the ratios to the target themselves, with censored runs at the end of the training, once."""
    mine, theirs = reach_all(target, arm, base), reach_all(target, base, base)
    steps = [[run.step or STEPS for run in side.values()] for side in (mine, theirs)]
    return sign_flip_p(np.log(steps[0]) - np.log(steps[1]), rng=np.random.default_rng(0))


LOOKS = (8, 12, 16, 20)
FAMILY: dict[str, Any] = {"speeds": (1.0, 1.0, 1.0), "targets": (BASELINE, FIXED)}
FINE: dict[str, Any] = {"evaluations": 200, "spread": 0.03}


def cells() -> Iterator[Cell]:
    """Yield every cell of the tables."""
    for pairs in ((8,), (10,), (14,), LOOKS):
        yield Cell(what="no difference", pairs=pairs)
        yield Cell(what="no difference, half of the runs censored", pairs=pairs, slow=0.5)
        yield Cell(what="no difference, exponential speeds", pairs=pairs, skewed=True)
        yield Cell(what="no difference, 15 % of the runs diverge", pairs=pairs, diverged=0.15)
        yield Cell(what="no difference, the baseline's best", pairs=pairs, targets=(BASELINE,))
        if len(pairs) == 1:
            yield Cell(what="no difference, three arms and two targets", pairs=pairs, **FAMILY)
    for pairs in ((10,), LOOKS):
        for speed in (1.25, 1.5, 2.0):
            yield Cell(what=f"{speed:g} times as fast", pairs=pairs, speeds=(speed,))
        yield Cell(what="1.5 times as fast, half of the runs censored", pairs=pairs, speeds=(1.5,), slow=0.5)
        yield Cell(what="1.5 times as fast, the baseline's best", pairs=pairs, speeds=(1.5,), targets=(BASELINE,))
        yield Cell(what="as fast, higher floor, the baseline's best", pairs=pairs, floor=0.3, targets=(BASELINE,))
        yield Cell(what="no difference, close evaluations", pairs=pairs, **FINE)
        yield Cell(what="slower by the margin, close evaluations", pairs=pairs, speeds=(1 / MARGIN,), **FINE)
    yield Cell(what="no difference, three arms and two targets", pairs=LOOKS, **FAMILY)


def simulate(cell: Cell) -> dict[str, float]:
    """Return the mean of every outcome over the studies of a cell."""
    rng = np.random.default_rng(zlib.crc32(name_of(cell).encode()))
    studies = [study(cell, rng) for _ in range(STUDIES)]
    return {key: round(float(np.mean([each[key] for each in studies])), 5) for key in studies[0]}


def name_of(cell: Cell) -> str:
    """Return the key of a cell in targets.json."""
    return f"{cell.what} | {','.join(map(str, cell.pairs))}"


def compute(path: Path) -> dict[str, Any]:
    """Simulate the cells that targets.json lacks."""
    content = read_json(path) if path.exists() else {"cells": {}, "seconds": 0.0}
    content |= {
        "schema": SCHEMA,
        "date": date.today().isoformat(),
        "command": "./run bench targets --out docs/results/targets",
        "versions": {
            "normscope": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "studies": STUDIES,
    }
    for cell in cells():
        if name_of(cell) in content["cells"]:
            continue
        start = time.process_time()
        content["cells"][name_of(cell)] = found = simulate(cell)
        content["seconds"] = round(content["seconds"] + time.process_time() - start, 1)
        write_json(path, content)
        print(f"{time.process_time() - start:6.1f} s  {name_of(cell)}: {found}", file=sys.stderr, flush=True)
    return content


COLUMNS = {
    "any_claim": "a claim of any arm",
    "better": "`better`",
    "worse": "`worse`",
    "equivalent": "`equivalent`",
    "covered": "coverage",
    "open": "intervals without an end",
    "censored": "runs of arms that never arrive",
    "naive": "sign flips of the ratios alone",
    "pairs": "mean pairs",
}


def render(content: dict[str, Any]) -> str:
    """Write the tables as Markdown."""
    head = [
        "# How often verdicts on times to a target err",
        "",
        f"`{content['command']}`, {content['date']}, {content['studies']:,} simulated studies a row, "
        f"{content['seconds']:,.0f} s of one core. A loss falls from 3 to 0, evaluated 20 times in 1,000 updates (200 "
        "times where it says close); the fixed target is 1.5. Speeds vary with a standard deviation of 0.3 between "
        "seeds, which a pair shares, and of 0.15 (0.03) between runs, in logarithms. Alpha is 0.05, the margin 1.1.",
        "",
        "Coverage is that of the ratio if every run went on until it arrives. The last column but one is what a "
        "test would claim that flips the signs of the ratios to the target, with censored runs at the end of the "
        "training, at the last look: right for fixed targets, and wrong for the baseline's best, which the baseline "
        "always reaches.",
    ]
    for title, wanted in (("No difference", True), ("Differences, and equivalence", False)):
        head += ["", f"## {title}", "", f"| runs | pairs | {' | '.join(COLUMNS.values())} |"]
        head += [f"| --- | --- |{' --- |' * len(COLUMNS)}"]
        for cell in cells():
            if (cell.what.startswith("no difference") and "close" not in cell.what) is not wanted:
                continue
            found = content["cells"].get(name_of(cell))
            if found is None:
                continue
            numbers = [f"{found[key]:.1f}" if key == "pairs" else f"{100 * found[key]:.1f} %" for key in COLUMNS]
            head += [f"| {cell.what} | {', '.join(map(str, cell.pairs))} | {' | '.join(numbers)} |"]
    return "\n".join(head) + "\n"


def main() -> None:
    """Simulate what is missing and write targets.json and targets.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/targets"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    content = compute(out / "targets.json")
    write_atomically(out / "targets.md", render(content).encode())
    print(out / "targets.md")


if __name__ == "__main__":
    main()
