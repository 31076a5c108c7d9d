"""The files around the code agree: workflows, templates, hooks, versions, changelog, citation."""

import importlib.metadata
import re
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import normscope

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def load_run() -> ModuleType:
    loader = SourceFileLoader("normscope_run", str(ROOT / "run"))
    spec = spec_from_loader("normscope_run", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def jobs(path: Path) -> dict[str, dict]:
    return yaml.safe_load(text(path))["jobs"]


def supported_pythons() -> list[str]:
    return [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]


def test_there_is_a_workflow_for_tests_docs_and_releases() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests"]


@pytest.mark.parametrize(
    "path",
    [
        *WORKFLOWS,
        *(ROOT / name for name in (".pre-commit-config.yaml", "RELEASING.md", ".github/pull_request_template.md")),
        *(ROOT / name for name in ("CONTRIBUTING.md", "README.md", ".ci/run")),
    ],
    ids=lambda path: path.name,
)
def test_every_command_of_run_that_a_file_names_exists(path: Path) -> None:
    documented = load_run().__doc__ or ""
    commands = set(re.findall(r"^  (\w+)", documented, re.MULTILINE)) | {"new", "list", "report", "diagnose", "data"}
    named = set(re.findall(r"\./run (?:--here )?([a-z]\w*)", text(path)))
    assert named
    assert named <= commands


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_end_and_ask_for_no_more_rights_than_they_use(path: Path) -> None:
    assert yaml.safe_load(text(path))["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 120, name
        for needed in [job.get("needs", [])] if isinstance(job.get("needs", []), str) else job.get("needs", []):
            assert needed in jobs(path), f"{name} needs {needed}"
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), f"{name}: {step}"
            assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_workflows_run_is_written_in_run(path: Path) -> None:
    allowed = re.compile(r'\./run |test "\$GITHUB_REF_NAME" = "v\$\(\./run |gh release create ')
    for job in jobs(path).values():
        for step in job["steps"]:
            assert "run" not in step or allowed.match(step["run"]), step["run"]


def test_tests_and_wheels_cover_every_supported_python_and_torch() -> None:
    tests = jobs(ROOT / ".github" / "workflows" / "tests.yml")["test"]
    assert tests["strategy"]["matrix"] == {"python": supported_pythons(), "torch": ["oldest", "pinned"]}
    assert tests["env"]["NORMSCOPE_TORCH"] == "${{ matrix.torch }}"
    wheels = jobs(ROOT / ".github" / "workflows" / "release.yml")["kernels"]
    assert wheels["strategy"]["matrix"]["python"] == supported_pythons()
    for path in WORKFLOWS:
        for name, job in jobs(path).items():
            setups = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
            assert all(
                step["with"]["python-version"] in {supported_pythons()[0], "${{ matrix.python }}"} for step in setups
            ), name


def test_a_job_measures_branches_and_ci_builds_the_docs() -> None:
    commands = [
        step.get("run") for job in jobs(ROOT / ".github" / "workflows" / "tests.yml").values() for step in job["steps"]
    ]
    assert "./run coverage" in commands
    assert tomllib.loads(text(ROOT / "pyproject.toml"))["tool"]["coverage"]["run"]["branch"] is True
    assert "\n./run docs || status=1\n" in text(ROOT / ".ci" / "run")


def test_pythons_begin_with_the_oldest_required() -> None:
    pythons = supported_pythons()
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    minors = [int(version.partition(".")[2]) for version in pythons]
    assert minors == list(range(minors[0], minors[-1] + 1))


def test_the_oldest_torch_is_the_one_that_the_package_refuses_to_go_below(monkeypatch: pytest.MonkeyPatch) -> None:
    oldest = ".".join(map(str, normscope._OLDEST_TORCH))
    assert PROJECT["optional-dependencies"]["torch"] == [f"torch>={oldest}"]
    run = load_run()
    monkeypatch.setenv("NORMSCOPE_TORCH", "oldest")
    assert run.pinned("torch") == f"torch=={oldest}.0"
    monkeypatch.setenv("NORMSCOPE_TORCH", "pinned")
    newest = run.pinned("torch").removeprefix("torch==")
    assert tuple(map(int, newest.split(".")[:2])) >= normscope._OLDEST_TORCH


def test_every_direct_dependency_is_pinned() -> None:
    groups = tomllib.loads(text(ROOT / "pyproject.toml"))["dependency-groups"]
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values(), *groups.values()]
    flat = [requirement for requirements in lists for requirement in requirements if isinstance(requirement, str)]
    names = [re.split(r"[>=<; ]", requirement)[0] for requirement in flat]
    pinned = re.findall(r"^([\w-]+)==", text(ROOT / "requirements" / "constraints.txt"), re.MULTILINE)
    assert sorted(set(names) - set(pinned)) == []
    assert sorted({name for name in pinned if pinned.count(name) > 1}) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_asks_for(path: Path) -> None:
    form = yaml.safe_load(text(path))
    assert set(form) <= {"name", "description", "labels", "title", "body"}
    assert form["name"]
    assert form["description"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in {"textarea", "input", "checkboxes", "dropdown"}
        assert field["attributes"]["label"]
        assert field["type"] != "checkboxes" or all(option["label"] for option in field["attributes"]["options"])


def test_hooks_pin_nothing_of_their_own() -> None:
    config = yaml.safe_load(text(ROOT / ".pre-commit-config.yaml"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith("./run ")


def test_changelog_keeps_the_form() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading
    kinds = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for heading in headings:
        name = heading.partition("]")[0][1:]
        assert re.search(rf"^\[{re.escape(name)}\]: https://", CHANGELOG, re.MULTILINE), f"no link for {name}"


def test_citation_has_a_date_if_and_only_if_its_version_is_released() -> None:
    assert CITATION["version"] == PROJECT["version"]
    released = dict(re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", CHANGELOG, re.MULTILINE))
    assert released.get(PROJECT["version"]) == (str(CITATION["date-released"]) if "date-released" in CITATION else None)


def test_the_addresses_of_the_project_agree() -> None:
    assert PROJECT["urls"]["Homepage"] == CITATION["repository-code"]
    assert PROJECT["urls"]["Issues"] == f"{CITATION['repository-code']}/issues"
    assert CITATION["repository-code"] in CHANGELOG


def test_the_package_says_that_it_is_typed() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (Path(normscope.__file__).parent / "py.typed").read_bytes() == b""


def test_spelling_is_checked_with_the_pinned_program() -> None:
    run = load_run()
    programs = run.checks("lint", "python")
    assert ["python", "-m", "codespell_lib", "."] in programs
    assert run.pinned("codespell") == f"codespell=={importlib.metadata.version('codespell')}"
