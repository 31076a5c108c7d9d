import os
import shutil
import subprocess

import pytest

from normscope.cli.parsing import parse_counts, parse_seeds, parse_shapes, shell_words, split_norms


@pytest.mark.parametrize(("text", "want"), [("0-2", [0, 1, 2]), ("3,5,8-9", [3, 5, 8, 9]), ("7", [7])])
def test_seeds_are_read(text: str, want: list[int]) -> None:
    assert parse_seeds(text) == want


@pytest.mark.parametrize("text", ["", "1-", "-1", "a", "1,,2", "0 to 3"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds must have the form 0-9 or 3,5,8"):
        parse_seeds(text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", [b"plain", b"it's mine", b"f\xff.py", b"\xff1a\\ '\"$x\n", "ü".encode(), b"\xe2\x80"])
def test_arguments_of_any_bytes_are_written_as_a_shell_reads_them(name: bytes) -> None:
    text = shell_words("printf", "%s", os.fsdecode(name))
    assert subprocess.run(["bash", "-c", text.encode()], capture_output=True, check=True).stdout == name


def test_commas_inside_brackets_do_not_split() -> None:
    assert split_norms("none, ada_norm(scale=2.0,k=0.1),dyt") == ["none", "ada_norm(scale=2.0,k=0.1)", "dyt"]


def test_shapes_are_read() -> None:
    assert parse_shapes("4096x512, 64x1000") == [(4096, 512), (64, 1000)]


@pytest.mark.parametrize("text", ["", "64", "64x", "x8", "0x8", "8x0", "8x-1", "8x8x8", "8*8"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="shapes must have the form 4096x512,64x1000"):
        parse_shapes(text)


@pytest.mark.parametrize(("text", "want"), [("", []), ("0", [0]), ("0,500, 4000", [0, 500, 4000])])
def test_counts_are_read(text: str, want: list[int]) -> None:
    assert parse_counts(text) == want


@pytest.mark.parametrize("text", ["-1", "1.5", "a", "0-9", "1 2", "0,x"])
def test_other_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"numbers must have the form 0,500,4000, got '{text}'"):
        parse_counts(text)


def test_norms_by_place_are_not_split() -> None:
    text = "layer_norm+ada_norm(scale=2.0,k=0.1):final,pre+post:1-2"
    assert split_norms(text) == ["layer_norm+ada_norm(scale=2.0,k=0.1):final", "pre+post:1-2"]
