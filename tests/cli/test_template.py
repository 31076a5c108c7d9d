"""The file that `normscope new` writes runs without changes."""

from pathlib import Path

import normscope.cli.template
from normscope.studies import compare
from normscope.studies.spec import make_study


def test_the_template_is_a_study_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "my_file.py"
    path.write_bytes(Path(normscope.cli.template.__file__).read_bytes())
    study_spec = make_study(f"{path}:make", norms=["none", "layer_norm"], seeds=[0, 1], steps=40)
    summary = compare(study_spec, out=tmp_path / "study", workers=1)
    assert [run.state for arm in summary.arms for run in arm.runs] == ["done"] * 4
    # Ten classes: what has learned something is far from ten per cent.
    assert all(arm.mean is not None and arm.mean > 50 for arm in summary.arms)
