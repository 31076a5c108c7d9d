"""Measure what each norm's output does not depend on: ``./run bench invariances`` writes docs/guides/invariances.md."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from normscope import norms
from normscope.analysis.invariances import TRANSFORMATIONS, Invariance, Invariances, invariances
from normscope.norms import NORMS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "invariances.md"
CASES, PLACES, FEATURES, UNITS = 64, 9, 12, 20
HEADS = {
    "weight_matrix_rescaling": "weight matrix re-scaling",
    "weight_matrix_recentering": "weight matrix re-centering",
    "weight_vector_rescaling": "weight vector re-scaling",
    "data_rescaling": "data set re-scaling",
    "data_recentering": "data set re-centering",
    "case_rescaling": "single case re-scaling",
    "feature_rescaling": "one feature re-scaled",
    "uniform_recentering": "one number added to all",
    "case_recentering": "one number added to a case",
}
WEIGHTED = list(TRANSFORMATIONS)[:6]
BARE = list(TRANSFORMATIONS)[3:]
SCALES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)

TOP = """# Invariances

Which transformations of weights or data leave the output of a norm unchanged? This page is written by
`./run bench invariances`, and a test compares it with a new measurement. Weights and data are transformed in float64,
and the output is compared with the original one:

* *exactly*: unchanged up to rounding, at every scale of the input;
* *but for eps*: unchanged except for the effect of eps. The deviation follows 1 / sqrt(1 + eps / var) to within 5 %
  over input scales from 1e-4 to 1e2;
* *no*: changed.

Norms have their default arguments; batch norm is in training mode. The data of `group_norm`, `instance_norm` and `frn`
have nine positions.
"""
BEHIND = """
## After a linear map without bias: Table 1 of Ba, Kiros, Hinton (2016)

Batch norm, weight norm and layer norm agree with the paper's table. The paper's text (section 5.1) says that weight
norm is invariant to re-scaling the data set; its table and this measurement say that it is not. All factors are
positive, since a negative one changes the sign of a normalized row. With a bias between the linear map and the norm,
the invariances to re-scaling are lost.
"""
ALONE = """
## The norm by itself

The input goes directly to the norm, without a linear map.
"""
SMALL = """
## The effect of eps

The deviation when all data are multiplied by three, after the linear map, by scale of the input. For large inputs the
norms are invariant; for small ones they are linear maps, so that a factor of three gives a deviation of 2. The default
eps of `rms_norm` is the machine epsilon of the input's dtype, here float64; in float32 its column would begin near
that of `frn`.
"""


def measured(name: str, *, alone: bool) -> Invariances:
    """Measure one norm, alone or behind a linear map, on data and weights of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    places = (PLACES,) if getattr(NORMS.get(name), "mixes_positions", False) else ()
    x = torch.randn(CASES, *places, FEATURES, generator=generator, dtype=torch.float64)
    if alone:
        return invariances(NORMS[name](FEATURES), x, generator=generator, scales=SCALES)
    linear = nn.Linear(FEATURES, UNITS, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(
            torch.randn(UNITS, FEATURES, generator=generator, dtype=torch.float64) / math.sqrt(FEATURES)
        )
    if name == "weight_norm":
        norms.apply_weight_norm(linear)
        weight = "parametrizations.weight.original1"
        return invariances(linear, x, generator=generator, weight=weight, scales=SCALES)
    block = nn.Sequential(linear, NORMS[name](UNITS))
    return invariances(block, x, generator=generator, weight="0.weight", scales=SCALES)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def curve(row: Invariance) -> list[str]:
    """Write the deviations at the scales; rounding is not the same number on every machine."""
    return ["rounding" if value < 1e-12 else f"{value:.1e}" for value in row.deviations]


def page() -> str:
    """Write the page."""
    behind = {name: measured(name, alone=False) for name in (*NORMS, "weight_norm")}
    alone = {name: measured(name, alone=True) for name in NORMS}
    parts = [TOP]
    for words, found, columns in ((BEHIND, behind, WEIGHTED), (ALONE, alone, BARE)):
        rows = [[f"`{name}`", *(told[column].holds for column in columns)] for name, told in found.items()]
        parts += [words, "\n", table(["norm", *(HEADS[column] for column in columns)], rows)]
    rows = [[f"`{name}`", *curve(told["data_rescaling"])] for name, told in behind.items()]
    parts += [SMALL, "\n", table(["norm", *(f"{scale:g}" for scale in SCALES)], rows)]
    return "".join(parts)


def main() -> None:
    """Write docs/guides/invariances.md, all of it or nothing."""
    text = page()
    fresh = PAGE.with_suffix(".md.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, PAGE)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
