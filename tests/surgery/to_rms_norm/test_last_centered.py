"""Last in, first out."""

import gc

import pytest
import torch

from normscope.surgery.to_rms_norm import convert as last_centered
from normscope.surgery.to_rms_norm.convert import check_last, enter, leave


def test_the_order() -> None:
    a, b, c = (torch.ones(2) for _ in range(3))
    first, second, apart = enter([a, b]), enter([b]), enter([c])
    check_last([c], apart)
    check_last([b], second)
    with pytest.raises(RuntimeError, match="a later to_rms_norm stands on 1 of the 2 tensors that this one centered"):
        check_last([a, b], first)
    leave([b], second)
    check_last([a, b], first)


def test_tensors_are_not_kept() -> None:
    gc.collect()
    before = len(last_centered._ORDER)
    tensor = torch.ones(2)
    enter([tensor])
    assert len(last_centered._ORDER) == before + 1
    del tensor
    gc.collect()
    assert len(last_centered._ORDER) == before
