import dataclasses

import numpy as np
import pytest

from normscope.data.readers.images import Arrays


def test_the_length_is_the_number_of_examples():
    assert len(Arrays(x=np.zeros((3, 8, 8), np.uint8), y=np.arange(3))) == 3


def test_a_part_cannot_be_swapped_for_another():
    part = Arrays(x=np.zeros((1, 8, 8), np.uint8), y=np.zeros(1, np.int64))
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        part.x = part.x + 1
