"""The page: one file that shows the summary's numbers, escapes what it is given, and is equal for equal files."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from normscope.report import write_report

VOID = {"meta", "link", "br"}


class _Page(HTMLParser):
    """Collects what a browser would make of the page, by the standard library's parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.values: list[tuple[str, str]] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th", "dd") and "data-value" in dict(attrs):
            self._cell = [dict(attrs)["data-value"] or "", ""]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th", "dd") and self._cell is not None:
            self.values.append((self._cell[0], " ".join(self._cell[1].split())))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        if self._cell is not None:
            self._cell[1] += data


def test_the_page_is_well_formed_and_small(whole_page: str) -> None:
    page = _Page(whole_page)
    assert page.open == []
    # 7 arms and 10 seeds; the promise for any study is 6 MB.
    assert len(whole_page.encode()) < 700_000


@pytest.mark.slow
def test_a_study_with_many_long_runs_stays_small(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    path = make_study(tmp_path / "long", recipe(arms=3, seeds=20, evaluations=600))
    assert write_report(path).stat().st_size < 1_200_000


def test_every_number_of_the_table_is_the_summarys(whole_study: Path, whole_page: str) -> None:
    summary = json.loads((whole_study / "summary.json").read_text())
    shown = [value for value, _ in _Page(whole_page).values]
    names = ("label", "verdict", "difference", "interval", "p_adjusted", "mean", "step_ms", "saved_bytes", "parameters")
    details = ("sd", "worst", "pairs", "interval_bca", "interval_examples", "p", "p_equivalent", "effect")
    details += (
        "improvement",
        "seeds_needed",
        "learning_rate",
        "peak_bytes",
        "saved_bytes",
        "seconds",
        "steps_to_baseline",
        "seconds_to_baseline",
        "placement",
        "arguments",
    )
    wanted = [arm[name] for arms in (summary["arms"], summary["untuned"]) for arm in arms for name in names + details]
    assert [json.loads(value) for value in shown] == wanted


def test_shown_numbers_round_to_the_number_behind_them(whole_page: str) -> None:
    checked = 0
    for value, text in _Page(whole_page).values:
        number = json.loads(value)
        if isinstance(number, float) and re.fullmatch(r"[+−]?\d+\.\d+", text):
            places = len(text.partition(".")[2])
            assert abs(float(text.replace("−", "-")) - number) <= 0.5 * 10**-places * (1 + 1e-9)
            checked += 1
    assert checked > 50


def test_island_and_downloads_are_the_summary(whole_study: Path, whole_page: str) -> None:
    page = _Page(whole_page)
    summary = json.loads((whole_study / "summary.json").read_text())
    assert json.loads(page.scripts[0]) == summary
    files = {attrs["download"]: attrs["href"] for tag, attrs in page.tags if tag == "a" and "download" in attrs}
    contents = {name: base64.b64decode((address or "").partition("base64,")[2]) for name, address in files.items()}
    assert json.loads(contents["summary.json"]) == summary
    assert contents["summary.csv"] == (whole_study / "summary.csv").read_bytes()


def test_equal_files_give_equal_bytes(whole_study: Path, whole_page: str, tmp_path: Path) -> None:
    shutil.copytree(whole_study, tmp_path / "copy")
    assert write_report(tmp_path / "copy").read_text(encoding="utf-8") == whole_page


def test_ids_are_unique_and_references_resolve(whole_page: str) -> None:
    tags = _Page(whole_page).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {
        attrs["href"] for tag, attrs in tags if tag in ("a", "use") and (attrs.get("href") or "").startswith("#")
    }
    assert {(target or "")[1:] for target in targets} <= set(ids)
    for _, attrs in tags:
        assert set((attrs.get("aria-labelledby") or "").split()) <= set(ids)


def test_every_picture_has_words(whole_page: str) -> None:
    pictures = [attrs for tag, attrs in _Page(whole_page).tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    # Two forests, six pairs, seven curves, seven gradients, two costs, seven tunings.
    assert len(pictures) == 31
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in pictures)


def test_nothing_is_loaded_from_outside(whole_page: str) -> None:
    for tag, attrs in _Page(whole_page).tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, name)
    assert "@import" not in whole_page
    assert not re.search(r"url\((?!#)", whole_page)


def test_only_the_pages_own_script_may_run(whole_page: str) -> None:
    policy = next(attrs["content"] for tag, attrs in _Page(whole_page).tags if "http-equiv" in attrs)
    assert "default-src 'none'" in (policy or "")
    assert "script-src 'sha256-" in (policy or "")


def test_hostile_names_stay_text(hostile_study: Path) -> None:
    page = _Page((hostile_study / "report.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [script for script in page.scripts if "alert(1)" in script and "\\u003cscript" not in script]
    assert page.open == []
    assert json.loads(page.scripts[0]) == json.loads((hostile_study / "summary.json").read_text())


def test_failures_come_before_everything_else(whole_page: str) -> None:
    answer = whole_page[whole_page.index('<ul class="answers">') :]
    assert answer.index("fails to train in 3 of 10 seeds") < answer.index("layer_norm_simple")
    table = whole_page[whole_page.index('id="verdicts-head"') :]
    assert table.index("badge fails") < table.index(">over the 7 pairs that finished")


def test_the_question_card_is_complete(whole_study: Path, whole_page: str) -> None:
    card = json.loads((whole_study / "card.json").read_text())
    for words in (card["question"], card["failure"], card["regime"], card["command"], "0.3 points", "higher is better"):
        assert words in whole_page
    assert f"<title>{card['question']}</title>" in whole_page


def test_a_finished_study_warns_of_nothing(whole_page: str) -> None:
    assert 'class="box warn"' not in whole_page


def test_an_unfinished_study_says_how_far_it_is_and_how_to_go_on(half_study: Path) -> None:
    text = (half_study / "report.html").read_text(encoding="utf-8")
    # Five seeds of seven arms, and two arms of the sixth seed; one run is interrupted.
    assert "This study is not finished: 37 of 70 runs have ended." in text
    assert text.index("normscope compare digits") < text.index('id="answer"')
    assert "versions: torch: 2.13.0+cpu in 31 runs, 2.12.1 in 7 runs" in text


def test_a_study_before_its_first_run_has_a_page(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=0))
    page = write_report(path).read_text(encoding="utf-8")
    assert "No pair of runs has ended yet." in page
    assert "No run has recorded an evaluation." in page


def test_a_study_without_a_baseline_to_compare_with(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    page = write_report(make_study(tmp_path / "study", recipe(arms=1, seeds=2, evaluations=3))).read_text(
        encoding="utf-8"
    )
    assert "there is nothing to compare it with" in page


def test_a_table_that_is_not_there_is_not_offered(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=2, evaluations=3))
    (path / "summary.csv").unlink()
    page = write_report(path).read_text(encoding="utf-8")
    assert 'download="summary.json"' in page
    assert 'download="summary.csv"' not in page


def test_tuning_of_an_arm_that_is_not_there(make_study: Callable, recipe: type, tmp_path: Path) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=2, evaluations=3, tuned=True))
    summary = json.loads((path / "summary.json").read_text())
    summary["tuning"]["arms"]["other"] = summary["tuning"]["arms"].pop("layer_norm")
    (path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(
        ValueError, match=r"tuning is about 'other', the arms are \['layer_norm', 'layer_norm_simple'\]"
    ):
        write_report(path)
    assert not (path / "report.html").exists()


def test_curves_and_tuning_show_what_the_validation_set_is_judged_by(
    make_study: Callable, recipe: type, tmp_path: Path
) -> None:
    path = make_study(tmp_path / "study", recipe(arms=2, seeds=2, evaluations=5, tuned=True))
    plain = write_report(path).read_text(encoding="utf-8")
    assert "the median accuracy on the validation set" in plain
    card = json.loads((path / "card.json").read_text())
    card["valid_metric"] = {"name": "loss a word", "unit": "nats", "higher_is_better": False}
    (path / "card.json").write_text(json.dumps(card))
    page = write_report(path).read_text(encoding="utf-8")
    assert "the median accuracy on the validation set" not in page
    assert re.findall(r"the median loss a word on the validation set at step 2000 is [0-9.]+ nats", page)
    # A trial in a picture of the tuning tells its learning rate and its value.
    assert re.findall(r"learning rate [0-9.e-]+: [0-9.]+ nats", page)
    # The verdict is about the test set still, and its figures are accuracies.
    assert "higher is better" in page
    assert "nats" not in page[page.index('id="verdicts-head"') :].partition("</table>")[0]


def test_the_error_of_a_missing_study_comes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no study"):
        write_report(tmp_path)
