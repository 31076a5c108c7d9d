"""Every public name has an example in its docstring, and the example prints what it shows."""

import doctest
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch

import normscope
from normscope import analysis, diagnostics, inspection, norms, placement, surgery
from support.study_folders import unpack

STUDY = Path(__file__).parents[2] / "docs" / "results" / "digits_published" / "study.tar.xz"
PACKAGES = (normscope, norms, placement, inspection, surgery, diagnostics, analysis)


def has_docstring(thing: Any) -> bool:
    """Return whether a public name is a function or class of normscope, and not a subpackage, registry or type."""
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith("normscope.")


def public(*packages: Any) -> dict[str, Any]:
    """Return the functions and classes that packages export, each once, under the name in the first package."""
    found: dict[str, Any] = {}
    for package in packages:
        for name in package.__all__:
            thing = getattr(package, name)
            if has_docstring(thing) and not any(thing is other for other in found.values()):
                found[f"{package.__name__}.{name}"] = thing
    return found


PUBLIC = public(*PACKAGES)


def examples_of(name: str) -> list[doctest.DocTest]:
    """Return the example of a public name; those of its methods belong to them."""
    return [test for test in doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={}) if test.examples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a study in ``runs/digits``, as it is after ``normscope compare digits``."""
    folder = tmp_path_factory.mktemp("examples")
    unpack(STUDY, folder / "runs" / "digits")
    return folder


@pytest.mark.parametrize("name", [name for name in PUBLIC if examples_of(name)])
def test_an_example_prints_what_it_shows(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    report = io.StringIO()
    with torch.random.fork_rng(devices=[]):
        for example in examples_of(name):
            doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    assert report.getvalue() == ""


@pytest.mark.parametrize("name", public(normscope))
def test_every_public_name_has_an_example(name: str) -> None:
    (found,) = examples_of(name) or pytest.fail(f"the docstring of {name} has no `Example:` with a doctest")
    assert "Example:\n" in (found.docstring or "")
    assert any(not example.options.get(doctest.SKIP) for example in found.examples)


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(PUBLIC[name])])
def test_every_public_function_has_an_example(name: str) -> None:
    assert examples_of(name)


def test_an_example_with_a_wrong_output_is_noticed() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    report = io.StringIO()
    doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    assert "Expected:\n    3\nGot:\n    2\n" in report.getvalue()
