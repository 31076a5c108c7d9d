"""A study computed by the kernels shows the curves of one computed by PyTorch's operations, to rounding."""

import json
from pathlib import Path

import pytest

from normscope.results.store import StudyFolder
from normscope.studies.compare import compare
from normscope.studies.plan import plan
from normscope.studies.spec import make_study


@pytest.mark.slow
def test_the_curves_are_those_of_eager_to_rounding(tmp_path: Path) -> None:
    names = ["layer_norm", "ada_norm", "detach_norm", "rms_norm"]
    norms = [f"{name}{words}" for name in names for words in ("", "(backend='eager')")]
    study_spec = make_study("digits", norms=norms, seeds=[0, 1], steps=60)
    compare(study_spec, out=tmp_path)
    study = StudyFolder(tmp_path)
    curves = {}
    for spec in plan(study_spec):
        lines = study.run(spec.id).metrics.read_text().splitlines()
        told = [json.loads(line) for line in lines]
        curves[spec.label, spec.seed] = [one["train_loss"] for one in told] + [one["valid_loss"] for one in told]
        described = json.loads(study.run(spec.id).description.read_text())
        assert described["backend"].startswith("cpu: ")
    for name in names:
        for seed in (0, 1):
            # Float32, sixty updates by Adam, whose first steps turn the sign of a gradient into a step.
            assert curves[name, seed] == pytest.approx(curves[f"{name}(backend='eager')", seed], rel=2e-3)
