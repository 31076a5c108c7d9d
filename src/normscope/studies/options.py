"""The options of a study, as :func:`normscope.make_study` and :func:`normscope.compare` take them."""

from collections.abc import Sequence
from typing import Literal, TypedDict

from normscope.results.look_plan import Spending
from normscope.tasks import Splits


class StudyOptions(TypedDict, total=False):
    """Keyword arguments of :func:`make_study`."""

    norms: Sequence[str]
    placements: Sequence[str]
    seeds: int | Sequence[int] | None
    looks: Sequence[int]
    until_decided: bool
    max_seeds: int | None
    spending: Spending | None
    targets: Sequence[float | str]
    target_margin: float
    warmups: Sequence[int]
    optimizers: Sequence[str]
    variants: Sequence[str]
    steps: int | None
    preset: str
    margin: float | None
    baseline: str | None
    precision: Literal["float32", "bfloat16"]
    device: str
    compile: bool
    devices_per_run: int
    splits: Splits | None
    tune: bool
    stack_seeds: bool
    question: str | None
