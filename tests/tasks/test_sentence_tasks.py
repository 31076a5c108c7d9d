"""The sentence tasks as the catalogue has them, and one whole study of a small one."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normscope.norms import NORMS, LayerNorm
from normscope.placement import PLACEMENTS
from normscope.results import summarize
from normscope.results.store import StudyFolder
from normscope.specs import NormSpec
from normscope.studies import compare
from normscope.studies.engines.engine import RunEvent
from normscope.studies.plan import RunSpec, plan
from normscope.studies.run import execute
from normscope.studies.spec import make_study
from normscope.tasks import TASKS, Recipe
from normscope.tasks.sentences import ENCODER_PLACEMENTS, RT, SST5, EncoderSize
from normscope.training.randomness import initialize

pytestmark = pytest.mark.usefixtures("small_data")

CPU = torch.device("cpu")
TINY = dataclasses.replace(
    RT,
    sizes={"small": EncoderSize(width=8, heads=2, feed_forward=16, dropout=0.1, layers=1)},
    presets={"small": Recipe(steps=12, batch_size=128, learning_rate=3e-3, evaluations=3)},
)


@pytest.mark.parametrize("task", [RT, SST5], ids=lambda task: task.name)
def test_entries_say_what_the_paper_says(task: Any) -> None:
    assert TASKS[task.name] is task
    assert list(task.sizes) == list(task.presets) == ["small", "full"]
    assert [size.layers for size in task.sizes.values()] == [4, 4]
    assert set(task.placements) <= set(PLACEMENTS)
    # Table 1 to 3 of Xu et al.: none, LayerNorm, LayerNorm-simple, DetachNorm, AdaNorm.
    figures = {"rt": [76.85, 77.21, 76.66, 76.40, 77.50], "sst5": [38.55, 39.23, 40.54, 40.04, 40.54]}
    (published,) = task.published
    assert [NormSpec.parse(text).name for text in published.rows] == [
        "none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm"
    ]  # fmt: skip
    assert list(published.rows.values()) == figures[task.name]


@pytest.mark.parametrize("name", ENCODER_PLACEMENTS)
def test_the_network_trains_at_every_placement(name: str) -> None:
    data = RT.load(CPU, "study", "small")
    model = RT.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
    initialize(model, 0)
    loss = RT.loss(model, data.batch(torch.arange(6)))
    loss.backward()
    assert loss.isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all()
    norms = sum(isinstance(module, LayerNorm) for module in model.modules())
    assert (norms == 0) is (not PLACEMENTS[name].has_norms)


def test_placements_are_different_functions() -> None:
    x = RT.load(CPU, "study", "small").valid.x[:4]
    logits = []
    # SkipInit is ReZero as it is here: tests/placement/test_without_norms.py.
    for name in (name for name in ENCODER_PLACEMENTS if name != "skipinit"):
        model = RT.network(NORMS["layer_norm"], PLACEMENTS[name], "small")
        initialize(model, 0)
        # Away from where ReZero and gains begin.
        with torch.no_grad():
            draw = torch.Generator().manual_seed(1)
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
            logits.append(model.eval()(x))
    for first in range(len(logits)):
        for second in range(first):
            assert (logits[first] - logits[second]).abs().max() > 1e-3


class Stopped:
    """Computes runs here, and stops after so many updates of the runs together."""

    def __init__(self, at: int | None = None) -> None:
        self.left = at

    def run(self, specs: Sequence[RunSpec], study: StudyFolder, callback: Callable[[RunEvent], None]) -> None:
        def watch(step: int, loss: float) -> bool:
            if self.left is not None:
                self.left -= 1
            return self.left == 0

        for spec in specs:
            state = execute(spec, study, watch)
            if state == "interrupted":
                raise KeyboardInterrupt
            callback(RunEvent(spec=spec, state=state, step=spec.recipe.steps))


def numbers(content: Any) -> Any:
    """Leave out what a clock measured."""
    clocks = {"step_ms", "peak_bytes", "seconds", "seconds_to_baseline", "command"}
    if isinstance(content, dict):
        return {key: numbers(value) for key, value in content.items() if key not in clocks}
    return [numbers(value) for value in content] if isinstance(content, list) else content


def test_a_study_from_its_question_to_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "rt", TINY)
    monkeypatch.setattr("normscope.training.loop.PROGRESS_SECONDS", 0.0)
    card = make_study("rt", norms=["layer_norm", "ada_norm"], seeds=[0, 1])
    whole = compare(card, out=tmp_path / "whole", engine=Stopped())
    assert whole.complete

    # 12 updates a run: stopped in the first run and in the third.
    for stop in (5, 27):
        with pytest.raises(KeyboardInterrupt):
            compare(card, out=tmp_path / "broken", engine=Stopped(stop))
    broken = compare(card, out=tmp_path / "broken", engine=Stopped())
    assert numbers(broken.to_dict()) == numbers(whole.to_dict())
    assert numbers(summarize(tmp_path / "broken").to_dict()) == numbers(whole.to_dict())

    values: dict[str, list[float]] = {}
    for spec in plan(card):
        first, second = (StudyFolder(tmp_path / name).run(spec.id) for name in ("whole", "broken"))
        assert first.examples.read_bytes() == second.examples.read_bytes()
        scores = np.load(first.examples)
        assert scores.shape == (len(RT.read().test),)
        assert set(np.unique(scores)) <= {0.0, 100.0}
        result = json.loads(first.result.read_text())
        assert result["value"] == pytest.approx(scores.mean(dtype=np.float64), rel=1e-12)
        values.setdefault(spec.label, []).append(result["value"])

    arms = {arm["label"]: arm for arm in whole.to_dict()["arms"]}
    for label, found in values.items():
        assert [run["value"] for run in arms[label]["runs"]] == found
        assert arms[label]["mean"] == pytest.approx(np.mean(found), rel=1e-12)
    paired = np.subtract(values["ada_norm"], values["layer_norm"])
    assert arms["ada_norm"]["difference"] == pytest.approx(paired.mean(), abs=1e-9)

    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "ada_norm" in page
    assert "padded words" in page
    for label in values:
        assert f"{arms[label]['mean']:.2f}" in page
    # What Xu et al. printed stands beside it.
    assert "77.50" in page or "77.5" in page
