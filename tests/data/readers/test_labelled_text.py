from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from normscope.data.readers.sentences import LabelledText


def test_its_length_is_the_number_of_sentences_and_it_is_frozen():
    text = LabelledText(sentences=("a b", "c"), labels=np.array([1, 0]))
    assert len(text) == 2
    with pytest.raises(FrozenInstanceError):
        text.sentences = ()  # pyright: ignore[reportAttributeAccessIssue]
