"""The public face: light to import, complete, and plain about a torch that is missing or too old."""

import os
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import normscope

SOURCE = Path(normscope.__file__).resolve().parents[1]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # Behind the folder stands the normscope of these tests, which need not be the one that is installed.
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(SOURCE)])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_every_public_name_is_there() -> None:
    assert sorted(normscope.__all__) == dir(normscope)
    for name in normscope.__all__:
        entry = getattr(normscope, name)
        assert name == "__version__" or entry.__name__ in {name, f"normscope.{name}"}


def test_each_name_is_declared_once_for_python_and_once_for_the_type_checker() -> None:
    lent = {name for names in normscope._NAMES.values() for name in names}
    assert set(normscope.__all__) == {"NormscopeError", "__version__", *normscope._NAMES, *lent}


def test_every_subpackage_is_an_attribute(tmp_path: Path) -> None:
    names = "; ".join(f"assert normscope.{name}.__doc__" for name in normscope._NAMES)
    told = python(f"import normscope; {names}", tmp_path)
    assert told.returncode == 0, told.stderr


def test_a_layer_stands_where_layer_norm_stood() -> None:
    x = torch.randn(3, 512)
    assert normscope.AdaNorm(512)(x).shape == x.shape
    torch.testing.assert_close(normscope.LayerNorm(512)(x), torch.nn.LayerNorm(512)(x))


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'LayerNrom'; it has .*AdaNorm, Arm"):
        attrgetter("LayerNrom")(normscope)


def test_import_does_not_import_torch(tmp_path: Path) -> None:
    told = python("import sys, normscope; assert 'torch' not in sys.modules", tmp_path)
    assert told.returncode == 0, told.stderr


def test_a_missing_torch_is_told_in_words(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; import normscope; normscope.AdaNorm"
    told = python(code, tmp_path)
    assert "normscope needs torch >= 2.11, and torch is not installed" in told.stderr


def test_an_old_torch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("__version__ = '2.10.1+cpu'")
    told = python("import normscope; normscope.AdaNorm", tmp_path)
    assert "normscope needs torch >= 2.11, got 2.10.1+cpu" in told.stderr


def test_a_nightly_build_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("__version__ = '2.12.0a0+git123'")
    told = python("import normscope; normscope._require_torch()", tmp_path)
    assert told.returncode == 0, told.stderr
