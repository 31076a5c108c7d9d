"""How often planned looks err, and how many pairs they take: ``./run bench looks --out docs/results/looks``.

2,000 simulated studies a cell, 1,000 for the candidates of the interval. The tests, intervals and Holm's correction are
the library's; sign-flip tests follow 2,047 random vectors instead of 32,767. What ended is not computed again: every
cell has generators of its own.
"""

import argparse
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy import special, stats

from normscope import __version__
from normscope.files import write_atomically
from normscope.results.flips import critical_values, lowest_level
from normscope.results.look_plan import Spending, nominal_table
from normscope.results.sequential import (
    DEFAULT_LOOKS,
    DEFAULT_SPENDING,
    LookPlan,
    nominal_levels,
    repeated_interval,
    sequential_equivalence_p,
    sequential_p,
)
from normscope.results.statistics import Interval, equivalence, holm, t_interval
from normscope.results.store import SCHEMA, read_json, write_json

STUDIES, DRAWS, ALPHA = 2000, 2**11 - 1, 0.05

# The levels of Holm's steps for up to six arms, a touch lower, since a claim needs a p-value below alpha.
STEPS = ALPHA / np.arange(6, 0, -1) * (1 - 1e-9)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def exponential_differences(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw runs whose baseline, the first, is constant, so that the differences are exponential."""
    runs = rng.exponential(size=shape) - 1
    runs[0] = 0
    return runs


NOISES: dict[str, Draw] = {
    "Gaussian": lambda rng, shape: rng.normal(size=shape) / 2**0.5,
    "counts of test errors": lambda rng, shape: rng.binomial(1000, 0.02, size=shape) / (2 * 1000 * 0.02 * 0.98) ** 0.5,
    "exponential runs": lambda rng, shape: rng.exponential(size=shape) / 2**0.5,
    "t runs, 3 degrees of freedom": lambda rng, shape: rng.standard_t(3, size=shape) / 6**0.5,
    "exponential differences": exponential_differences,
}
"""Values of runs ``[arms + 1, pairs]``, the baseline first; a difference has standard deviation 1."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a study is read, and what is claimed then."""

    pairs: tuple[int, ...]
    spending: Spending | None = None
    """None: every look is tested at alpha, as if it were the only one."""
    student: bool = False
    """Whether t tests at the nominal levels take the place of sign flips and intervals adjusted for skewness."""

    @property
    def plan(self) -> LookPlan:
        """The plan of looks."""
        assert self.spending is not None
        return LookPlan(self.pairs, self.spending)

    def p_values(self, values: np.ndarray, rng: np.random.Generator) -> Sequence[float]:
        """Test one arm at every look; a p-value is one of STEPS or 1."""
        if self.spending is None:
            return [self._fixed_p(values[:pairs], rng) for pairs in self.pairs]
        if not self.student:
            return sequential_p(values, self.plan, rng=rng, draws=DRAWS, levels=STEPS)
        found = [2 * min(student_p(part, 0.0), student_p(-part, 0.0)) for part in self._parts(values)]
        return self._lowest(found, two_sided=True)

    def intervals(self, values: np.ndarray) -> Sequence[Interval]:
        """Compute the reported interval at every look."""
        if self.spending is None:
            return [t_interval(part, level=1 - ALPHA) for part in self._parts(values)]
        if not self.student:
            return repeated_interval(values, self.plan, level=1 - ALPHA)
        nominal = nominal_levels(self.plan, ALPHA)
        return [t_interval(part, level=1 - each) for part, each in zip(self._parts(values), nominal, strict=True)]

    def equivalences(self, values: np.ndarray, margin: float, rng: np.random.Generator) -> Sequence[float]:
        """Test equivalence at every look: 1 where a verdict would not say it, for its interval leaves the margin."""
        if self.spending is None:
            return [equivalence(part, margin=margin, alpha=ALPHA).p for part in self._parts(values)]
        sides = [self._lowest([student_p(part, -margin) for part in self._parts(side)]) for side in (values, -values)]
        # The library's test passes only if Student's, one of its parts, does.
        if self.student or max(side[-1] for side in sides) == 1:
            return np.max(sides, axis=0).tolist()
        ps = sequential_equivalence_p(values, self.plan, margin=margin, rng=rng, draws=DRAWS, levels=STEPS[-1:])
        ends = repeated_interval(values, self.plan, level=1 - 2 * ALPHA)
        return [p if -margin < low and high < margin else 1.0 for p, (low, high) in zip(ps, ends, strict=True)]

    def _parts(self, values: np.ndarray) -> list[np.ndarray]:
        return [values[:pairs] for pairs in self.pairs]

    def _fixed_p(self, values: np.ndarray, rng: np.random.Generator) -> float:
        spent, sizes = STEPS[None, :], np.abs(values)
        cuts, _ = critical_values(sizes, (len(values),), spent, two_sided=True, rng=rng, draws=DRAWS)
        lowest = lowest_level(np.abs(values.sum(keepdims=True)), cuts[0], np.array([len(STEPS)]))
        return float(np.append(STEPS, 1.0)[lowest[0]])

    def _lowest(self, found: Sequence[float], *, two_sided: bool = False) -> list[float]:
        """Return the lowest of STEPS at which p-values at nominal levels reject at a look or before."""
        table = nominal_table(self.plan, STEPS, two_sided=two_sided)
        lowest = [int(np.searchsorted(row, p)) for p, row in zip(found, table, strict=True)]
        return np.append(STEPS, 1.0)[np.minimum.accumulate(lowest)].tolist()


def student_p(values: np.ndarray, bound: float) -> float:
    """Compute the p-value of Student's t test that the mean is above a bound."""
    return float(special.stdtr(len(values) - 1, (bound - values.mean()) / (values.std(ddof=1) / len(values) ** 0.5)))


FIVE = (10, 15, 20, 25, 30)

RULES = {
    "the default": Rule(pairs=DEFAULT_LOOKS, spending=DEFAULT_SPENDING),
    "Pocock": Rule(pairs=FIVE, spending="pocock"),
    "O'Brien-Fleming": Rule(pairs=FIVE, spending="obrien_fleming"),
    "fixed 10": Rule(pairs=(10,)),
    "fixed 30": Rule(pairs=(30,)),
    "unplanned looks": Rule(pairs=FIVE),
    "Kim-DeMets": Rule(pairs=FIVE, spending="kim_demets"),
    "Pocock from 8 on": Rule(pairs=(8, 12, 18, 24, 30), spending="pocock"),
    "t tests, Pocock": Rule(pairs=FIVE, spending="pocock", student=True),
}
"""The rules compared."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of the simulation."""

    rule: str
    noise: str = "Gaussian"
    effects: tuple[float, ...] = (0.0,)
    """True difference of each arm, in standard deviations of a difference."""
    margin: float = 0.0
    """0: equivalence is never claimed."""
    bonferroni: bool = False


def study(cell: Cell, rng: np.random.Generator) -> dict[str, float]:
    """Simulate one study; an arm that is decided stops."""
    rule, arms = RULES[cell.rule], len(cell.effects)
    runs = NOISES[cell.noise](rng, (arms + 1, rule.pairs[-1]))
    rows = runs[1:] - runs[0] + np.array(cell.effects)[:, None]
    intervals = [rule.intervals(row) for row in rows]
    # Without an interval on one side of zero nothing can be claimed, and the sign flips need not be made.
    apart = any(low > 0 or high < 0 for arm in intervals for low, high in arm)
    ps = [rule.p_values(row, rng) if apart else [1.0] * len(rule.pairs) for row in rows]
    equal = [rule.equivalences(row, cell.margin, rng) if cell.margin else [1.0] * len(rule.pairs) for row in rows]
    verdicts, stops = [""] * arms, [len(rule.pairs) - 1] * arms
    for look in range(len(rule.pairs)):
        at = [min(look, stop) if verdict else look for verdict, stop in zip(verdicts, stops, strict=True)]
        now = [p[each] for p, each in zip(ps, at, strict=True)]
        adjusted = [min(1.0, arms * p) for p in now] if cell.bonferroni else holm(now)
        for arm in range(arms):
            low, high = intervals[arm][look]
            if verdicts[arm]:
                continue
            if equal[arm][look] < ALPHA:
                verdicts[arm], stops[arm] = "equivalent", look
            elif (adjusted[arm] or 0.0) < ALPHA and (low > 0 or high < 0):
                verdicts[arm], stops[arm] = "better" if low > 0 else "worse", look
    ends = [intervals[arm][stops[arm]] for arm in range(arms)]
    true = cell.effects
    return {
        "false_claim": any(
            (verdict == "better" and effect <= 0) or (verdict == "worse" and effect >= 0)
            for verdict, effect in zip(verdicts, true, strict=True)
        ),
        "false_equivalent": any(
            verdict == "equivalent" and abs(effect) >= cell.margin
            for verdict, effect in zip(verdicts, true, strict=True)
        ),
        "found": float(np.mean([each == "better" for each, effect in zip(verdicts, true, strict=True) if effect] or 0)),
        "equivalent": float(np.mean([each == "equivalent" for each in verdicts])),
        "covered": float(np.mean([low <= effect <= high for (low, high), effect in zip(ends, true, strict=True)])),
        "pairs": float(np.mean([rule.pairs[stop] for stop in stops])),
    }


def simulate(cell: Cell) -> dict[str, float]:
    """Return the mean of every outcome over the studies of a cell."""
    rng = np.random.default_rng(zlib.crc32(name_of(cell).encode()))
    studies = [study(cell, rng) for _ in range(STUDIES)]
    return {key: round(float(np.mean([each[key] for each in studies])), 5) for key in studies[0]}


def name_of(cell: Cell) -> str:
    """Return the key of a cell in looks.json."""
    effects = ",".join(f"{effect:g}" for effect in cell.effects)
    return f"{cell.rule} | {cell.noise} | {effects} | margin {cell.margin:g}" + " | Bonferroni" * cell.bonferroni


EFFECTS = (0.3, 0.5, 0.75, 1.0, 1.5)
HARD = ("Gaussian", "exponential differences")
SIX, MIXED = (0.0,) * 6, (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)


def cells() -> Iterator[Cell]:
    """Yield every cell of the tables: the default in full, the main alternatives, and something of the others."""
    for number, rule in enumerate(RULES):
        default, main = number == 0, number <= 5
        noises = tuple(NOISES) if default else HARD if main else HARD[:1]
        for noise in noises:
            yield Cell(rule=rule, noise=noise)
            yield Cell(rule=rule, noise=noise, effects=(0.5,), margin=0.5)
            if default:
                yield Cell(rule=rule, noise=noise, effects=(-0.5,), margin=0.5)
            if default or (main and noise == "Gaussian"):
                yield Cell(rule=rule, noise=noise, margin=0.5)
        for noise in NOISES if default else ("Gaussian",):
            for effect in EFFECTS if main and noise == "Gaussian" else (0.75, 1.0):
                yield Cell(rule=rule, noise=noise, effects=(effect,))
        for noise in noises:
            yield Cell(rule=rule, noise=noise, effects=SIX)
        if default:
            for bonferroni in (False, True):
                yield Cell(rule=rule, effects=MIXED, bonferroni=bonferroni)
            yield Cell(rule=rule, margin=1.0)


def interval_study(noise: str, effect: float, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return the candidates for the repeated interval where the default rule stops, with equivalence within half."""
    rule = RULES["the default"]
    runs = NOISES[noise](rng, (2, rule.pairs[-1]))
    values = runs[1] - runs[0] + effect
    hull = rule.intervals(values)
    apart = any(low > 0 or high < 0 for low, high in hull)
    ps = rule.p_values(values, rng) if apart else [1.0] * len(hull)
    equal = rule.equivalences(values, 0.5, rng)
    decided = [
        q < ALPHA or (p < ALPHA and (low > 0 or high < 0)) for (low, high), p, q in zip(hull, ps, equal, strict=True)
    ]
    stop = decided.index(True) if any(decided) else len(hull) - 1
    part, nominal = values[: rule.pairs[stop]], nominal_levels(rule.plan, ALPHA)[stop]
    low, high = t_interval(part, level=1 - nominal)
    count, deviation, skewness = len(part), float(part.std(ddof=1)), float(stats.skew(part, bias=False))
    shift = skewness * deviation / (6 * count)
    found = {"Student's t": (low, high), "Johnson (1978)": (low + shift, high + shift)}
    for label, bend in (("Hall (1992)", skewness), ("Hall, skewness inflated", skewness * (1 + 10 / count))):
        slope = bend / (3 * count**0.5)
        reach = special.stdtrit(count - 1, 1 - nominal / 2)
        ends = [(np.cbrt(1 + 3 * slope * (side - slope / 2)) - 1) / slope for side in (reach, -reach)]
        low, high = (float(part.mean() - end * deviation / count**0.5) for end in ends)
        found[label] = (low, high)
    found["t and Hall, skewness inflated: the reported one"] = hull[stop]
    found["inversion of the sign-flip test"] = invert(values[: rule.pairs[stop]], rule.plan, int(rng.integers(2**32)))
    return found


def invert(values: np.ndarray, plan: LookPlan, seed: int) -> Interval:
    """Return the means that the group-sequential sign-flip test has not rejected by the last look, by bisection."""
    spread = values.std(ddof=1) / len(values) ** 0.5
    ends = []
    for side in (-1, 1):
        inside, outside = values.mean(), values.mean() + side * 8 * spread
        for _ in range(11):
            middle = (inside + outside) / 2
            rng = np.random.default_rng(seed)
            p = sequential_p(values - middle, plan, rng=rng, draws=DRAWS, levels=STEPS[-1:])[-1]
            inside, outside = (inside, middle) if p < ALPHA else (middle, outside)
        ends.append(float(inside))
    return ends[0], ends[1]


def interval_cell(noise: str, effect: float, studies: int = STUDIES // 2) -> dict[str, list[float]]:
    """Return coverage and mean width of every candidate."""
    rng = np.random.default_rng(zlib.crc32(f"{noise} {effect}".encode()))
    found = [interval_study(noise, effect, rng) for _ in range(studies)]
    covered = {key: float(np.mean([each[key][0] <= effect <= each[key][1] for each in found])) for key in found[0]}
    widths = {key: float(np.mean([each[key][1] - each[key][0] for each in found])) for key in found[0]}
    return {key: [round(covered[key], 4), round(widths[key], 3)] for key in covered}


INTERVALS = [(noise, 0.0) for noise in HARD]


def compute(path: Path) -> None:
    """Simulate the cells that looks.json lacks."""
    content = read_json(path) if path.exists() else {"cells": {}, "intervals": {}, "seconds": 0.0}
    head = {
        "schema": SCHEMA,
        "date": date.today().isoformat(),
        "command": "./run bench looks --out docs/results/looks",
        "versions": {
            "normscope": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "rules": {name: asdict(rule) for name, rule in RULES.items()},
    }
    jobs = [("cells", name_of(cell), lambda cell=cell: simulate(cell)) for cell in cells()]
    jobs += [("intervals", f"{noise} | {at:g}", lambda n=noise, at=at: interval_cell(n, at)) for noise, at in INTERVALS]
    for kind, name, job in jobs:
        if name in content[kind]:
            continue
        start = time.process_time()
        content[kind][name] = job()
        content["seconds"] = round(content["seconds"] + time.process_time() - start, 1)
        write_json(path, head | content)
        print(f"{time.process_time() - start:6.1f} s  {name}: {content[kind][name]}", file=sys.stderr, flush=True)


def at(content: dict[str, Any], outcome: str, cell: Cell) -> str:
    """Write one figure; empty if it was not simulated."""
    value = content["cells"].get(name_of(cell), {}).get(outcome)
    return "" if value is None else f"{value:.1f}" if outcome == "pairs" else f"{100 * value:.1f} %"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a table in Markdown."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|", *body]


def overview(content: dict[str, Any]) -> list[str]:
    """Write the figures under Gaussian noise that the guide has, too."""

    def row(rule: str) -> list[str]:
        def both(outcome: str, **settings: Any) -> str:
            cell = Cell(rule=rule, **settings)
            return ", ".join(filter(None, (at(content, outcome, cell), at(content, "pairs", cell))))

        return [
            rule,
            ", ".join(map(str, RULES[rule].pairs)),
            at(content, "false_claim", Cell(rule=rule)),
            at(content, "false_claim", Cell(rule=rule, effects=SIX)),
            at(content, "false_equivalent", Cell(rule=rule, effects=(0.5,), margin=0.5)),
            *(both("found", effects=(effect,)) for effect in EFFECTS),
            both("equivalent", margin=0.5),
        ]

    heads = ["rule", "looks at pairs", "false claim, 1 arm", "6 arms", "`equivalent` at the margin"]
    heads += [f"{effect:g} sd found, mean pairs" for effect in EFFECTS]
    return table([*heads, "no difference, margin 0.5 sd: `equivalent`, mean pairs"], [row(rule) for rule in RULES])


def page(content: dict[str, Any]) -> str:
    """Write the tables of looks.json."""

    def over_noises(outcome: str, **settings: Any) -> list[str]:
        cells = {rule: [Cell(rule=rule, noise=noise, **settings) for noise in NOISES] for rule in RULES}
        rows = [[rule, *(at(content, outcome, cell) for cell in row)] for rule, row in cells.items()]
        return table(["rule", *NOISES], rows)

    default, hard = "the default", HARD[1]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    covered = [
        [
            f"{rule}, {effect:g}" + ", margin 0.5" * (margin > 0),
            *(
                at(content, "covered", Cell(rule=rule, noise=noise, effects=(effect,), margin=margin))
                for noise in NOISES
            ),
        ]
        for rule in RULES
        for effect, margin in ((0.0, 0.0), (0.75, 0.0), (1.0, 0.0), (0.0, 0.5), (0.5, 0.5), (-0.5, 0.5))
    ]
    found = [
        [
            f"{effect:g} sd",
            *(
                ", ".join(
                    at(content, outcome, Cell(rule=default, noise=noise, effects=(effect,)))
                    for outcome in ("found", "pairs")
                )
                for noise in NOISES
            ),
        ]
        for effect in (0.75, 1.0)
    ]
    equal = [
        ", ".join(
            at(content, outcome, Cell(rule=default, noise=noise, margin=0.5)) for outcome in ("equivalent", "pairs")
        )
        for noise in NOISES
    ]
    wide, mixed = (
        Cell(rule=default, margin=1.0),
        [Cell(rule=default, effects=MIXED, bonferroni=b) for b in (False, True)],
    )
    lines = [
        "# Planned looks: how often they err, and how many pairs they take",
        "",
        f"`{content['command']}`, {content['date']}, {versions}; {STUDIES:,} simulated studies a cell, "
        f"{content['seconds'] / 60:.0f} minutes of one core. A difference has standard deviation 1, and all levels are "
        "0.05 over the whole study. A share near 5 % has a standard error of 0.5 %. An empty cell was not simulated. "
        "Where a margin is named, `equivalent` ends a study, too. What the rules do is said in [How a verdict is "
        "reached](../../guides/statistics.md#planned-looks).",
        "",
        "## Gaussian noise",
        "",
        *overview(content),
        "",
        *table(["rule", "tests"], [[name, describe(rule)] for name, rule in RULES.items()]),
        "",
        f"With a margin of one standard deviation, the default says `equivalent` in {at(content, 'equivalent', wide)}, "
        f"with {at(content, 'pairs', wide)} pairs.",
        "",
        "## A false `better` or `worse`, one arm",
        "",
        *over_noises("false_claim"),
        "",
        "## A false `better` or `worse` of any of six arms with a common baseline",
        "",
        "In the last column the baseline is constant and the six arms are independent.",
        "",
        *over_noises("false_claim", effects=SIX),
        "",
        "## `equivalent` said of a difference as large as the margin, half a standard deviation",
        "",
        *over_noises("false_equivalent", effects=(0.5,), margin=0.5),
        "",
        "With exponential differences and a true difference of minus the margin, the default says it in "
        f"{at(content, 'false_equivalent', Cell(rule=default, noise=hard, effects=(-0.5,), margin=0.5))}.",
        "",
        "## Coverage of the reported interval where the study stops",
        "",
        *table(["rule and true difference", *NOISES], [row for row in covered if any(row[1:])]),
        "",
        "## The default with other noise: found, mean pairs",
        "",
        *table(["true difference", *NOISES], [*found, ["none, margin 0.5: `equivalent`", *equal]]),
        "",
        "## Holm or Bonferroni over six arms, three with a difference of 1 sd (the default, Gaussian)",
        "",
        *table(
            ["correction", "differences found", "a false claim", "mean pairs of an arm"],
            [
                [name, *(at(content, outcome, cell) for outcome in ("found", "false_claim", "pairs"))]
                for name, cell in zip(("Holm", "Bonferroni"), mixed, strict=True)
            ],
        ),
        "",
        "## Candidates for the repeated interval: coverage and mean width where the default stops",
        "",
        f"No difference, {STUDIES // 2:,} studies.",
        "",
        *table(
            ["interval", *(noise for noise, _ in INTERVALS)],
            [
                [name, *(f"{100 * row[name][0]:.1f} %, {row[name][1]:.2f}" for row in content["intervals"].values())]
                for name in next(iter(content["intervals"].values()), {})
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def describe(rule: Rule) -> str:
    """Name the tests of a rule."""
    if rule.spending is None:
        return "sign-flip test and t interval at 0.05" + ", at every look anew" * (len(rule.pairs) > 1)
    kind = "t tests" if rule.student else "sign-flip tests and intervals adjusted for skewness"
    return f"{kind}, {rule.spending.replace('_', ' ')} spending"


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for looks.json and looks.md")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    compute(folder / "looks.json")
    write_atomically(folder / "looks.md", page(read_json(folder / "looks.json")).encode())
    print(f"wrote {folder / 'looks.md'}")


if __name__ == "__main__":
    main()
