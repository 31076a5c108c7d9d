"""The backend is chosen by name or by device, and never replaced silently."""

import os
import subprocess
import sys
from typing import get_args

import pytest
import torch

from normscope import AdaNorm, LayerNorm
from normscope.kernels import BACKENDS, Backend, BackendUnavailable, check_backend
from normscope.kernels.backends import choice as backend


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch):
    backend.requested_backend.cache_clear()
    yield
    monkeypatch.undo()
    backend.requested_backend.cache_clear()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import torch, normscope\n{program}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def made_by(module: torch.nn.Module) -> str:
    return type(module(torch.randn(2, 8, requires_grad=True)).grad_fn).__name__


def test_the_kernels_are_the_default_on_a_cpu():
    assert made_by(AdaNorm(8)) == "CppFunction" or "Norm" in made_by(AdaNorm(8))
    assert backend.describe(torch.device("cpu")).startswith("cpu: ")


def test_a_module_may_ask_for_eager():
    assert made_by(AdaNorm(8, backend="eager")) == "MulBackward0"
    # A view of what torch's own operation made, with our closed form behind it.
    made = LayerNorm(8, backend="eager")(torch.randn(2, 8, requires_grad=True)).grad_fn
    assert made is not None
    assert type(made.next_functions[0][0]).__name__ == "FamilyNormBackward"


def test_the_environment_may_ask_for_eager():
    told = run("print(normscope.AdaNorm(8)(torch.randn(2, 8, requires_grad=True)).grad_fn)", NORMSCOPE_BACKEND="eager")
    assert "MulBackward0" in told.stdout


def test_a_module_overrules_the_environment():
    program = "print(normscope.AdaNorm(8, backend='cpu')(torch.randn(2, 8, requires_grad=True)).grad_fn)"
    assert "MulBackward0" not in run(program, NORMSCOPE_BACKEND="eager").stdout


def test_names_of_backends():
    assert get_args(Backend) == BACKENDS
    assert [check_backend(name) for name in (*BACKENDS, None)] == [*BACKENDS, None]


@pytest.mark.parametrize("name", ["Eager", "cuda", ""])
def test_a_name_that_is_none_is_refused(name: str):
    with pytest.raises(ValueError, match="backend must be one of eager, cpu, triton, or None for the best one, got"):
        AdaNorm(8, backend=name)


def test_an_environment_that_names_none_is_refused_at_the_first_use():
    told = run("normscope.AdaNorm(8)(torch.randn(2, 8))", NORMSCOPE_BACKEND="fast")
    assert "NORMSCOPE_BACKEND: backend must be one of eager, cpu, triton" in told.stderr
    assert told.returncode == 1


def test_a_back_end_of_another_device_is_refused():
    with pytest.raises(BackendUnavailable, match="the backend triton computes on cuda tensors, got one on cpu"):
        AdaNorm(8, backend="triton")(torch.randn(2, 8))
    with pytest.raises(BackendUnavailable, match="the backend cpu computes on cpu tensors, got one on meta"):
        AdaNorm(8, backend="cpu")(torch.randn(2, 8, device="meta"))


def test_a_back_end_that_cannot_be_built_is_refused_when_it_is_asked_for(tmp_path):
    program = "normscope.AdaNorm(8, backend='cpu')(torch.randn(2, 8))"
    told = run(program, XDG_CACHE_HOME=str(tmp_path), PATH="", CC="", CXX="")
    assert "the backend cpu cannot run here: the CPU kernels cannot be used: no C compiler" in told.stderr
    assert told.returncode == 1


def test_a_device_without_kernels_runs_the_definition():
    assert AdaNorm(8)(torch.randn(2, 8, device="meta")).shape == (2, 8)
    assert backend.describe(torch.device("meta")) == "eager: no kernels for meta"
