"""Processes in which Triton interprets, or compiles for machines that are not here.

Triton decides when it is imported whether it interprets, so that neither may happen in the process of the tests. The
body of a test runs elsewhere; an error comes back with its trace.
"""

import atexit
import importlib
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial, partialmethod, wraps
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here; it has no wheels for macOS"
)


def elsewhere(interpret: str, body: Callable[..., None]) -> Callable[..., None]:
    """Run the body of a test in the process whose TRITON_INTERPRET is ``interpret``."""

    @wraps(body)
    def test(**arguments: Any) -> None:
        process(interpret).submit(run_body, body.__module__, body.__name__, arguments).result()

    return test


interpreted = partial(elsewhere, "1")
compiling = partial(elsewhere, "0")


@cache
def process(interpret: str) -> ProcessPoolExecutor:
    """Start a process, once; it ends with the tests."""
    folder = tempfile.TemporaryDirectory()
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    variables = {"TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": folder.name, "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, variables):
        pool.submit(int).result()
    atexit.register(folder.cleanup)
    return pool


def run_body(module: str, name: str, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    from triton.runtime import interpreter

    patch_tensor = partial(patch_tensor_with_index, interpreter._patch_lang_tensor)
    builder = interpreter.InterpreterBuilder
    with (
        mock.patch.object(builder, "create_dot", partialmethod(multiply, builder.create_dot)),
        mock.patch.object(interpreter, "_convert_float", convert_float),
        mock.patch.object(interpreter, "_patch_lang_tensor", patch_tensor),
    ):
        vars(importlib.import_module(module))[name].__wrapped__(**arguments)


def patch_tensor_with_index(patch_tensor: Callable[..., None], tensor: type, scope: Any) -> None:
    """Let Triton's interpreter convert its scalars to Python's ints under any NumPy.

    A scalar of the interpreter is an array of shape [1]. Triton 3.6, which torch 2.11 needs, calls ``int`` of it, which
    NumPy 2.4 and later refuse; Triton 3.7 and later remove the axis first.
    """
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda scalar: int(scalar.handle.data.item()))


def multiply(builder: Any, create_dot: Callable[..., Any], a: Any, b: Any, *rest: Any) -> Any:
    """Multiply matrices: Triton's interpreter takes the bits of bfloat16 for numbers."""
    from triton import language
    from triton.runtime.interpreter import TensorHandle

    a, b = (
        TensorHandle(widened(one.data).view(np.float32), language.float32) if one.dtype.name == "bf16" else one
        for one in (a, b)
    )
    return create_dot(builder, a, b, *rest)


def widened(values: np.ndarray) -> np.ndarray:
    """Return the bits in float32 of those of bfloat16."""
    return values.astype(np.uint32) << 16


def convert_float(values: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
    """Convert between float32 and bfloat16 as a GPU does: Triton's interpreter cuts bits off instead of rounding."""
    if (source.name, target.name) == ("fp32", "bf16"):
        rounded = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
        return rounded.view(torch.uint16).numpy().reshape(values.shape)
    assert (source.name, target.name) == ("bf16", "fp32")
    return widened(values).reshape(values.shape)
