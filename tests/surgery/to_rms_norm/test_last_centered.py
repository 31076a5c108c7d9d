"""Last in, first out."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from normscope.surgery.to_rms_norm.convert import check_last_conversion, forget_conversion, register_conversion


def test_the_order() -> None:
    a, b, c = (torch.ones(2) for _ in range(3))
    first, second, apart = register_conversion([a, b]), register_conversion([b]), register_conversion([c])
    check_last_conversion([c], apart)
    check_last_conversion([b], second)
    with pytest.raises(RuntimeError, match="a later to_rms_norm stands on 1 of the 2 tensors that this one centered"):
        check_last_conversion([a, b], first)
    forget_conversion([b], second)
    check_last_conversion([a, b], first)


def test_tensors_are_not_kept() -> None:
    tensor = torch.ones(2)
    register_conversion([tensor])
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is None


def test_a_copy_of_a_centered_parameter_starts_anew() -> None:
    parameter = nn.Parameter(torch.ones(2))
    register_conversion([parameter])
    copied = copy.deepcopy(parameter)
    check_last_conversion([copied], register_conversion([copied]))
