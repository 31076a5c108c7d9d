"""What the tests of papers share: cells about digits, an engine that waits for nobody, gradient norms made up."""

from collections.abc import Callable, Sequence

import numpy as np

from normscope.papers.judging.cell import Cell, PaperArm, PaperStudy, Setup
from normscope.papers.xiong2020.initial_gradients import Setting, plan
from normscope.results.store import StudyFolder
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec
from normscope.studies.run import execute
from normscope.studies.spec import make_study
from normscope.tasks.task import Metric

ERROR = Metric(name="test error", unit="%", higher_is_better=False)
PLAIN, NORMED = PaperArm(norm="none"), PaperArm(norm="layer_norm")
SEEDS = tuple(range(8))


def difference(published: float | None, /, **changed: object) -> Cell:
    """Give a cell of no norm minus layer norm on digits."""
    given = {
        "id": f"digits/none-layer_norm/{published}",
        "tables": ("table1",),
        "source": "Table 1",
        "kind": "difference",
        "says": "w/o Norm - LayerNorm on digits",
        "task": "digits",
        "metric": ERROR,
        "arm": PLAIN,
        "baseline": NORMED,
        "published": published,
        "differs": "nothing",
        **changed,
    }
    return Cell(**given)  # pyright: ignore[reportArgumentType]


def value(published: float | None, /, **changed: object) -> Cell:
    """Give a cell of layer norm's figure on digits."""
    return difference(
        published, **{"kind": "value", "baseline": None, "arm": NORMED, "printed": (published,), **changed}
    )


def diverges(**changed: object) -> Cell:
    """Give a cell that says that no norm does not train on digits, and layer norm does."""
    given = {"kind": "diverges", "published": None, "id": "digits/none", **changed}
    return difference(None, **given)


def make_studies(task: str, setup: Setup) -> tuple[PaperStudy, ...]:
    card = make_study(
        task,
        norms=["none", "layer_norm"],
        seeds=setup.seeds,
        looks=setup.looks,
        until_decided=setup.until_decided,
        max_seeds=setup.max_seeds,
        steps=setup.steps,
        preset=setup.preset,
        device=setup.device,
    )
    return (PaperStudy(name=task, spec=card, labels={PLAIN: "none", NORMED: "layer_norm"}),)


class InThisProcess:
    """Computes runs one after another, here."""

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        for spec in specs:
            execute(spec, study, lambda step, loss: False)


def made_up(setting: Setting, seeds: range, noise: float) -> list[dict]:
    """Give rows whose slopes are the theory's, but for noise on the logarithm."""
    rng = np.random.default_rng(0)
    rows = []
    for layers, placement, seed in plan(setting, seeds):
        size = 1.6 if placement == "post" else 2.0 * layers**-0.5
        rate = np.log(1.5) / 2 if placement == "post" else 0.0
        norms = [float(size * np.exp(rate * layer + noise * rng.standard_normal())) for layer in range(layers)]
        by_layer = {part: {"W1": norms, "W2": norms} for part in ("encoder", "decoder")}
        row = {
            "layers": layers,
            "placement": placement,
            "seed": seed,
            "last": size * float(np.exp(noise * rng.normal())),
        }
        rows.append({**row, "by_layer": by_layer if layers == setting.layers[0] else None})
    return rows
