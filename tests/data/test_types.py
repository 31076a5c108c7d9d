"""The types of what readers return: exported beside the readers."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from normscope import data
from normscope.data import (
    ArraySplits,
    ByteSplits,
    DataState,
    LabelledTextSplits,
    Pairs,
    ParallelSplits,
    ParsedSentence,
    Progress,
    SentimentTree,
    Treebank,
)


@pytest.mark.parametrize(
    ("read", "returned"),
    [
        (data.load_digits, ArraySplits),
        (data.load_mnist, ArraySplits),
        (data.load_bytes, ByteSplits),
        (data.load_rt, LabelledTextSplits),
        (data.load_cr, LabelledTextSplits),
        (data.load_subj, LabelledTextSplits),
        (data.load_mpqa, LabelledTextSplits),
        (data.load_sst, LabelledTextSplits),
        (data.load_parallel, ParallelSplits),
        (data.load_ewt, Treebank),
        (data.load_ptb, Treebank),
        (data.read_trees, Iterator[SentimentTree]),
        (data.read_conllu, Iterator[ParsedSentence]),
        (data.state, DataState),
        (data.cache_folder, Path),
    ],
)
def test_the_type_that_a_reader_returns_is_exported(read: Callable[..., Any], returned: Any) -> None:
    assert get_type_hints(read)["return"] == returned


def test_every_function_with_a_progress_callback_takes_the_exported_type() -> None:
    functions = [value for name in data.__all__ if inspect.isfunction(value := getattr(data, name))]
    hints = [get_type_hints(function)["progress"] for function in functions if "progress" in get_type_hints(function)]
    assert len(hints) == 22
    assert hints == [Progress | None] * 22


def test_the_parts_of_a_parallel_corpus_are_pairs_or_missing() -> None:
    hints = get_type_hints(ParallelSplits)
    assert [get_args(hints[part]) for part in ("train", "valid", "test")] == [(Pairs, type(None))] * 3
