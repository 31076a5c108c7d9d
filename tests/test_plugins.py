"""What other packages bring: found, listed, compared in worker processes; and left out where it cannot be used."""

import importlib.metadata
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from normscope.registry import Plugin, PluginIgnored, load_plugins
from support.plugin_package import file_in_page, install, install_the_pages


def run(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "normscope.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env={**os.environ, "COLUMNS": "160", "PYTHONPATH": f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )


def check_it_is_there_and_works(site: Path, out: Path) -> None:
    told = run(site, "list")
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    for name in ("max_norm", "half_pre", "deep_digits", "largest"):
        (line,) = [line for line in told.stdout.splitlines() if line.startswith(f"│ {name} ")]
        assert "[gentle-norms 0.2]" in line
    assert "gentle-norms" not in next(line for line in told.stdout.splitlines() if "ada_norm" in line)
    options = [
        "--norms",
        "layer_norm,max_norm(eps=0.01)",
        "--placement",
        "pre,half_pre",
        "--seeds",
        "0",
        "--steps",
        "10",
    ]
    told = run(site, "compare", "deep_digits", *options, "--out", str(out), "--workers", "1", "--json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert [arm["label"] for arm in summary["arms"]] == [
        "layer_norm@pre",
        "max_norm(eps=0.01)@pre",
        "layer_norm@half_pre",
        "max_norm(eps=0.01)@half_pre",
    ]
    assert all(run["state"] == "done" for arm in summary["arms"] for run in arm["runs"])
    assert len({arm["mean"] for arm in summary["arms"]}) > 1


@pytest.mark.slow
def test_the_package_of_the_page_is_listed_and_compared(tmp_path: Path) -> None:
    check_it_is_there_and_works(install_the_pages(tmp_path / "site"), tmp_path / "study")


@pytest.mark.slow
@pytest.mark.skipif(
    not {"pip", "hatchling"} <= {found.metadata["Name"] for found in importlib.metadata.distributions()},
    reason="pip or hatchling is not here",
)
def test_the_package_of_the_page_can_be_installed(tmp_path: Path) -> None:
    source = tmp_path / "gentle"
    source.mkdir()
    for name in ("pyproject.toml", "gentle_norms.py"):
        (source / name).write_text(file_in_page(name))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(tmp_path / "site")]
    told = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    check_it_is_there_and_works(tmp_path / "site", tmp_path / "study")


@pytest.mark.slow
def test_a_placement_of_another_package_needs_residual_branches(tmp_path: Path) -> None:
    told = run(install_the_pages(tmp_path / "site"), "compare", "mnist_mlp", "--placement", "half_pre")
    assert told.returncode == 2
    assert "task mnist_mlp takes the placements preactivation, got 'half_pre'" in told.stderr


@pytest.mark.slow
def test_a_broken_package_costs_nobody_else_anything(tmp_path: Path) -> None:
    entries = {
        "normscope.norms": {"fine_norm": "broken_things:fine", "gone": "no_such_module_there:x"},
        "normscope.placements": {"post": "broken_things:fine", "no_placement": "broken_things:fine"},
        "normscope.tasks": {"no_task": "broken_things:fine"},
    }
    site = install(
        tmp_path / "site", "broken-things", entries, broken_things="from torch import nn\nfine = nn.LayerNorm"
    )
    told = run(site, "list")
    assert told.returncode == 0, told.stderr
    assert "fine_norm" in told.stdout
    for why in (
        "normscope.norms 'gone' of broken-things 0.2 is ignored: ModuleNotFoundError",
        "normscope.placements 'post' of broken-things 0.2 is ignored: the name is taken",
        "normscope.placements 'no_placement' of broken-things 0.2 is ignored: broken_things:fine is of another kind",
        "normscope.tasks 'no_task' of broken-things 0.2 is ignored",
    ):
        assert why in told.stderr


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def ignored(*, taken: tuple[str, ...] = (), group: str = "normscope.test") -> tuple[list[Plugin], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load_plugins(group, taken=taken, accepts=callable, wanted="a function")
    assert all(warning.category is PluginIgnored for warning in caught)
    return found, [str(warning.message) for warning in caught]


def test_what_is_found_says_who_brought_it(site: Path) -> None:
    install(site, "two-things", {"normscope.test": {"b": "json:loads", "a": "json:dumps"}})
    found, told = ignored()
    assert found == [
        Plugin(name="a", entry=json.dumps, package="two-things 0.2"),
        Plugin(name="b", entry=json.loads, package="two-things 0.2"),
    ]
    assert told == []


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ours", "json:dumps", "the name is taken"),
        ("two-words", "json:dumps", "the name must be one word of letters, digits and _"),
        ("x", "json:nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
        ("x", "json:__doc__", "json:__doc__ is of another kind, str: expected a function"),
        ("x", "ends_it_all:x", "SystemExit: 3"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_package(name: str, value: str, why: str, site: Path) -> None:
    install(site, "a-thing", {"normscope.test": {name: value}}, ends_it_all="raise SystemExit(3)")
    found, told = ignored(taken=("ours",))
    assert found == []
    assert told == [f"normscope.test {name!r} of a-thing 0.2 is ignored: {why}"]


def test_of_two_with_one_name_the_first_is_taken(site: Path) -> None:
    install(site, "b-thing", {"normscope.test": {"x": "json:loads"}})
    install(site, "a-thing", {"normscope.test": {"x": "json:dumps"}})
    found, told = ignored()
    assert [plugin.entry for plugin in found] == [json.dumps]
    assert told == ["normscope.test 'x' of b-thing 0.2 is ignored: the name is taken by a-thing 0.2"]


def test_a_folder_that_stands_twice_on_the_path_counts_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "a-thing", {"normscope.test": {"x": "json:dumps"}})
    monkeypatch.syspath_prepend(f"{site}/../{site.name}")
    assert ignored()[1] == []


@pytest.mark.slow
def test_what_a_package_prints_and_warns_of_is_no_result(tmp_path: Path) -> None:
    code = (
        "print('hello from the package')\nimport os\nfrom torch import nn\n"
        "class Loud(nn.LayerNorm):\n"
        "    def forward(self, x):\n        print('loud')\n        os.system('echo louder')\n"
        "        return super().forward(x)\n"
    )
    site = install(
        tmp_path / "site", "loud-things", {"normscope.norms": {"loud": "loud:Loud", "gone": "no_module:x"}}, loud=code
    )
    told = run(site, "list", "norms")
    assert "loud" in told.stdout
    assert "hello" not in told.stdout
    ignored = "normscope.norms 'gone' of loud-things 0.2 is ignored: ModuleNotFoundError: No module named 'no_module'"
    assert told.stderr.splitlines() == [f"normscope:1: PluginIgnored: {ignored}", "hello from the package"]
    words = ["--norms", "loud", "--seeds", "0", "--steps", "5", "--workers", "1", "--out", str(tmp_path / "study")]
    told = run(site, "compare", "digits", *words, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["arms"][0]["norm"] == "loud"
    assert "louder" in told.stderr
    told = run(site, "diagnose", "digits", "--norm", "loud", "--out", str(tmp_path / "page.html"), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["setting"]["Norm"] == "loud"
    assert "louder" in told.stderr


@pytest.mark.slow
def test_a_norm_that_is_made_already_is_left_out(tmp_path: Path) -> None:
    entries = {"normscope.norms": {"made": "made_already:norm"}}
    code = "from torch import nn\nnorm = nn.LayerNorm(16)"
    told = run(install(tmp_path / "site", "made-things", entries, made_already=code), "list", "norms")
    assert (
        "normscope.norms 'made' of made-things 0.2 is ignored: made_already:norm is of another kind, LayerNorm: "
        "expected a class or function that makes a norm of a width"
    ) in told.stderr
