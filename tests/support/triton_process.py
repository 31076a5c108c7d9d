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
from functools import cache, partial, wraps
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
    with mock.patch("triton.runtime.interpreter._convert_float", convert_float):
        vars(importlib.import_module(module))[name].__wrapped__(**arguments)


def convert_float(values: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
    """Convert between float32 and bfloat16 as a GPU does: Triton's interpreter cuts bits off instead of rounding."""
    if (source.name, target.name) == ("fp32", "bf16"):
        rounded = torch.from_numpy(np.ascontiguousarray(values)).bfloat16()
        return rounded.view(torch.uint16).numpy().reshape(values.shape)
    assert (source.name, target.name) == ("bf16", "fp32")
    return (values.astype(np.uint32) << 16).reshape(values.shape)
