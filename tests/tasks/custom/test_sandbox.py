"""Errors of a user's code, and what it changes for everybody."""

import contextlib
import io
import os
import random
import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import normscope
from normscope import tasks
from normscope.data import DataDamaged, DataNotFound
from normscope.tasks.custom.sandbox import (
    ProcessState,
    UserCodeError,
    preserve_process_state,
    seed_numpy_and_python,
    user_code,
)
from normscope.tasks.custom.trial import Stop


def failing() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer\nand more") from error


def test_an_error_shows_the_users_frames_and_what_it_came_of() -> None:
    with pytest.raises(UserCodeError) as raised, user_code("f.py:make"):
        failing()
    told = str(raised.value)
    assert told.startswith("f.py:make failed:\n")
    assert told.index("KeyError: 'inner'") < told.index("ValueError: outer\nand more")
    assert "in failing" in told
    assert str(Path(normscope.__file__).parent) not in told
    assert raised.value.reason.startswith("ValueError: outer (test_sandbox.py, line ")


def test_what_checks_arguments_has_no_line_in_it() -> None:
    from normscope.tasks import Recipe

    with pytest.raises(UserCodeError) as raised, user_code("f.py:make"):
        Recipe(steps=0, batch_size=1, learning_rate=1.0)
    assert "recipe.py" not in str(raised.value)
    assert "<string>" not in str(raised.value)
    assert raised.value.reason.startswith("ValueError: steps must be a whole number of at least 1, got 0 (test_sandbox")


CALLS_USER_CODE = [
    *(f"normscope.tasks.custom.{module.name}" for module in iter_modules(tasks.custom.__path__)),
    *(
        "normscope.tasks.recipe",
        "normscope.training.user_loop",
        "normscope.studies.plan",
        "normscope.studies.preflight",
    ),
]


@pytest.mark.parametrize("name", CALLS_USER_CODE)
def test_every_module_that_calls_user_code_is_hidden_by_its_mark(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(name)
    file = str(module.__file__)

    def shown() -> str:
        calls: dict[str, Any] = {}
        exec(compile("def call(function): function()", file, "exec"), calls)
        with pytest.raises(UserCodeError) as raised, user_code("f.py:make"):
            calls["call"](failing)
        return str(raised.value)

    assert file not in shown()
    monkeypatch.delattr(module, "__tracebackhide__")
    assert file in shown()


def test_an_error_in_the_text_itself_has_a_reason_too() -> None:
    with pytest.raises(UserCodeError, match="SyntaxError") as raised, user_code("f.py:make"):
        compile("a = = 1", "f.py", "exec")
    assert raised.value.reason.startswith("SyntaxError: invalid syntax")


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(0), AssertionError(), FileNotFoundError("x")])
def test_whatever_user_code_raises_is_a_user_error(error: BaseException) -> None:
    with pytest.raises(UserCodeError, match=type(error).__name__), user_code("f.py:make"):
        raise error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), DataNotFound("no"), DataDamaged("no"), Stop(), KeyboardInterrupt()],
)
def test_what_is_not_a_user_error_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, user_code("f.py:make"):
        raise error
    assert raised.value is error


def change_everything(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(torch.get_num_threads() + 1)
    os.chdir(folder)
    sys.path.insert(0, "/nowhere")
    sys.argv = ["other", "arguments"]
    torch.set_float32_matmul_precision("medium")
    warnings.simplefilter("ignore")


def test_everything_is_put_back_even_after_an_error(tmp_path: Path) -> None:
    before = ProcessState.now()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)

    def calls() -> None:
        with preserve_process_state(), user_code("f.py:make"):
            change_everything(tmp_path)
            assert ProcessState.now().since(before).keys() == vars(before).keys()
            random.seed(7)
            np.random.seed(7)  # noqa: NPY002
            torch.manual_seed(7)
            raise ValueError

    with pytest.raises(UserCodeError, match="ValueError"):
        calls()
    assert ProcessState.now() == before
    # A default device, even the CPU, would cost every operation a look.
    assert not torch.overrides._get_current_function_mode_stack()
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted  # noqa: NPY002


def test_what_user_code_prints_is_no_result() -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with preserve_process_state():
            print("loading")
        print("result")
    assert (out.getvalue(), err.getvalue()) == ("result\n", "loading\n")


def test_one_seed_decides_what_all_three_draw() -> None:
    def drawn(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        seed_numpy_and_python()
        return random.random(), float(np.random.rand())  # noqa: NPY002

    with preserve_process_state():
        assert drawn(2**62) == drawn(2**62)
        assert not set(drawn(1)) & set(drawn(2))


def test_no_lazy_module_is_asked_for_the_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was asked for: a lazy module would have imported something")

    monkeypatch.setitem(sys.modules, "a_lazy_module", Lazy("a_lazy_module"))
    with pytest.raises(UserCodeError, match="ZeroDivisionError"), user_code("f.py:make"):
        print(1 / 0)
