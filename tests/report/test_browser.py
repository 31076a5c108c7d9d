"""The pages of a study and of the atlas in a real Chromium: wide, on a phone, at night, on paper, by keyboard."""

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from normscope.report.atlas import read_atlas, write_atlas
from normscope.report.drawing.palette import LIGHT

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 600_000
"""Milliseconds for what a busy machine does late."""

TEXT = (
    "p, li, td, th, dt, dd, h1, h2, h3, a, b, strong, small, summary, button, caption, figcaption, code, text, .badge"
)
UNFOLD = "document.querySelectorAll('details').forEach((details) => (details.open = true))"
ORDER = "[...document.querySelectorAll('#verdicts tbody')].map((body) => body.querySelector('.name').textContent)"
CONTROLS = """[...document.querySelectorAll('a, button, summary, [tabindex="0"]')]
.filter((each) => each.checkVisibility()).length"""
CUT = """[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1)
.map((box) => [box.textContent.trim().slice(0, 40), box.scrollWidth, box.clientWidth])"""
CONTRAST = """(selectors) => {
  const channel = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const rgba = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (c) => 0.2126 * channel(c[0] / 255) + 0.7152 * channel(c[1] / 255) + 0.0722 * channel(c[2] / 255);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const c = rgba(getComputedStyle(at).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll(selectors)) {
    if (!element.getClientRects().length || !element.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(paper(element))].sort((x, y) => y - x);
    const key = element.tagName + "." + (element.getAttribute("class") || "");
    found[key] = Math.min(found[key] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = next((path for name in NAMES if (path := shutil.which(name))), None)
    if binary is None:
        pytest.fail(f"no browser found (looked for {', '.join(NAMES)}): install one with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS, timeout=PATIENCE)
        yield browser
        browser.close()


class _Visit:
    """A page that is offline, and a record of what it said and asked for."""

    def __init__(
        self,
        browser: Browser,
        study: Path,
        *,
        width: int = 1280,
        scheme: str = "light",
        page: str = "report.html",
        script: bool = True,
    ) -> None:
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            offline=True,
            accept_downloads=True,
            java_script_enabled=script,
        )
        self.context.set_default_timeout(PATIENCE)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.route(re.compile(r"^(?!file:|data:)"), lambda route: route.abort())
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.goto((study / page).as_uri())

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:")] == self.asked[:1]
        assert self.asked[0].startswith("file:")


@pytest.fixture(scope="module")
def study(whole_study: Path, whole_page: str) -> Path:
    assert (whole_study / "report.html").read_text(encoding="utf-8") == whole_page
    return whole_study


@pytest.mark.parametrize(
    ("name", "width"),
    [
        *(("whole_study", width) for width in (390, 768, 1280)),
        *((name, 390) for name in ("half_study", "hostile_study")),
        *(("looks_study", width) for width in (340, 1280)),
    ],
)
def test_no_width_scrolls_sideways(browser: Browser, request: pytest.FixtureRequest, name: str, width: int) -> None:
    request.getfixturevalue("whole_page")
    with _Visit(browser, request.getfixturevalue(name), width=width) as page:
        page.evaluate(UNFOLD)
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_in_both_modes(browser: Browser, study: Path, scheme: str) -> None:
    with _Visit(browser, study, scheme=scheme) as page:
        page.evaluate(UNFOLD)
        found = page.evaluate(CONTRAST, TEXT)
        assert {"text.", "H1.", "SPAN.badge fails", "SMALL."} <= set(found)
        # WCAG 2.2, 1.4.3.
        assert {key: ratio for key, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_looks_have_contrast_and_fit_on_paper(browser: Browser, looks_study: Path, scheme: str) -> None:
    with _Visit(browser, looks_study, scheme=scheme) as page:
        found = page.evaluate(CONTRAST, ", ".join(f"#looks {each}" for each in TEXT.split(", ")))
        assert {"text.", "SPAN.badge better", "SPAN.badge not-enough-evidence", "TD.n"} <= set(found)
        assert {key: ratio for key, ratio in found.items() if ratio < 4.5} == {}
        page.emulate_media(media="print", color_scheme=scheme)
        page.set_viewport_size({"width": 703, "height": 900})
        assert page.evaluate(CUT) == []


def test_pictures_follow_the_mode(browser: Browser, study: Path) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        with _Visit(browser, study, scheme=scheme) as page:
            paper = "getComputedStyle(document.body).backgroundColor"
            text = "getComputedStyle(document.querySelector('.forest text')).fill"
            mark = "getComputedStyle(document.querySelector('.forest [data-arm=\"1\"] use')).fill"
            seen[scheme] = [
                page.evaluate(text),
                page.evaluate(mark),
                page.evaluate(paper),
            ]
    assert all(light != dark for light, dark in zip(seen["light"], seen["dark"], strict=True))


def test_the_phone_shows_the_narrow_forest_and_cards(browser: Browser, study: Path) -> None:
    with _Visit(browser, study, width=390) as page:
        assert page.locator(".forest .narrow svg").is_visible()
        assert not page.locator(".forest .broad svg").is_visible()
        cell = page.locator("#verdicts .verdicts td[data-head='Adjusted p']").nth(1)
        assert cell.evaluate("(cell) => getComputedStyle(cell, '::before').content") == '"Adjusted p"'
        sizes = page.evaluate(
            "[...document.querySelectorAll('figure svg:not(.glyph)')].filter((svg) => svg.getClientRects().length)"
            ".map((svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
        )
        # Pictures are drawn for their place: text of 11 pixels stays above 10.
        assert min(sizes) > 0.92
        assert max(sizes) <= 1


def test_sorting_by_button_and_keyboard(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        before = page.evaluate(ORDER)
        button = page.locator("#verdicts .verdicts").get_by_role("button", name="Mean")
        button.click()
        rising = page.evaluate(ORDER)
        assert rising[0] == "none"
        assert page.locator("#verdicts th[aria-sort=ascending]").count() == 1
        button.press("Enter")
        assert page.evaluate(ORDER) == rising[::-1]
        difference = page.locator("#verdicts .verdicts").get_by_role("button", name="Difference")
        for last in range(2):
            difference.click()
            # The baseline has no difference: it stays last both ways.
            assert page.evaluate(ORDER)[-1] == "layer_norm", last
        assert sorted(before) == sorted(rising)


def test_tab_reaches_every_control_and_the_focus_is_seen(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
        controls = page.evaluate(CONTROLS)
        seen = 1
        for _ in range(controls - 1):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", page.evaluate("document.activeElement.outerHTML.slice(0, 80)")
            seen += 1
        assert page.evaluate("document.activeElement.matches('#made summary')")
        assert seen == controls


def test_details_open_by_keyboard(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        summary = page.locator("#verdicts summary").nth(2)
        assert summary.inner_text().startswith("Details")
        summary.press("Enter")
        assert page.locator("#verdicts details[open] dt", has_text="BCa bootstrap interval").is_visible()


def test_the_outline_has_landmarks_and_ordered_heads(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        assert [page.locator(tag).count() for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((head) => Number(head.tagName[1]))")
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.evaluate("[...document.querySelectorAll('table')].every((table) => table.caption)")
        assert page.evaluate("[...document.querySelectorAll('th')].every((head) => head.scope)")
        table = page.locator("#verdicts .verdicts")
        assert table.get_by_role("row").count() == 1 + 2 * 7
        assert table.get_by_role("columnheader").count() == 9
        assert page.locator("#verdicts").get_by_role("img").count() == 1


def test_pointing_at_an_arm_fades_the_others(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        page.locator(".answers li").nth(1).hover()
        arm = page.locator(".answers li").nth(1).get_attribute("data-arm")
        assert page.locator(f".forest .faded[data-arm='{arm}']").count() == 0
        assert page.locator(".forest .faded").count() > 0
        page.locator("h1").hover()
        assert page.locator(".faded").count() == 0


def test_paper_is_light_and_everything_is_unfolded(browser: Browser, study: Path, tmp_path: Path) -> None:
    with _Visit(browser, study, scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ink = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')")
        assert ink == LIGHT["ink"]
        assert page.locator("details:not([open])").count() == 0
        assert not page.locator("nav").is_visible()
        # A table that is wider than A4 between its margins, 186 mm, would be cut.
        page.set_viewport_size({"width": 703, "height": 900})
        assert page.evaluate(CUT) == []
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[open]").count() == 0
        data = page.pdf(prefer_css_page_size=True)
    assert data.startswith(b"%PDF")


def test_the_download_is_the_summary(browser: Browser, study: Path) -> None:
    with _Visit(browser, study) as page:
        with page.expect_download() as download:
            page.get_by_role("link", name="summary.json").click()
        assert Path(download.value.path()).read_bytes() == (study / "summary.json").read_bytes()


ATLAS = {"page": "atlas.html"}
SAID = "[...document.querySelectorAll('.said')].filter((each) => each.checkVisibility()).map((each) => each.innerText)"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory, whole_study: Path, half_study: Path, hostile_study: Path) -> Path:
    """An atlas of the committed studies and of three others, one of them hostile."""
    folder = tmp_path_factory.mktemp("atlas")
    committed = Path(__file__).parents[2] / "docs" / "results"
    for study in (*(path.parent for path in committed.glob("*/summary.json")), whole_study, half_study, hostile_study):
        (folder / study.name).mkdir()
        shutil.copy(study / "summary.json", folder / study.name)
        (folder / study.name / "report.html").write_text("the page of the study")
    write_atlas(folder)
    return folder


@pytest.mark.parametrize("width", [340, 768, 1280, 2000])
def test_no_width_of_the_atlas_scrolls_sideways(browser: Browser, atlas: Path, width: int) -> None:
    with _Visit(browser, atlas, width=width, **ATLAS) as page:
        assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        page.locator("button.open").nth(5).press("Enter")
        box = page.locator(".detail:popover-open").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_of_the_atlas_has_contrast(browser: Browser, atlas: Path, scheme: str) -> None:
    with _Visit(browser, atlas, scheme=scheme, **ATLAS) as page:
        found = page.evaluate(CONTRAST, f"{TEXT}, select, option, label, span")
        page.locator("button.open").nth(5).press("Enter")
        found |= page.evaluate(CONTRAST, ".detail:popover-open *")
        assert {"SPAN.badge worse", "SPAN.badge fails", "BUTTON.open", "BUTTON.close", "SELECT.", "DT."} <= set(found)
        assert {key: ratio for key, ratio in found.items() if ratio < 4.5} == {}


def test_a_filter_leaves_what_it_names_and_the_sentences_follow(browser: Browser, atlas: Path) -> None:
    with _Visit(browser, atlas, **ATLAS) as page:
        before = page.evaluate(SAID)
        page.get_by_label("Placement").select_option("preactivation")
        shown = page.locator(".entry:visible")
        wanted = [each for each in read_atlas(atlas).comparisons if each.arm.placement == "preactivation"]
        assert shown.count() == len(wanted)
        assert page.get_by_role("status").inner_text().startswith(f"{len(wanted)} of ")
        after = page.evaluate(SAID)
        assert "detach_norm 5 worse (mnist_mlp, mnist_mlp_batch4, ud_ewt ×3), 1 undecided (mnist_cnn)." in after
        assert not [line for line in after if line.startswith("ada_norm(k=0.3)")]
        heads = page.locator(".matrix thead th:visible b").all_inner_texts()
        assert sorted(heads) == sorted({each.summary.task for each in wanted})
        assert {"mnist_cnn", "ud_ewt"} < set(heads)
        page.get_by_label("Network").select_option("perceptron of a parser")
        assert page.locator(".matrix thead th:visible b").all_inner_texts() == ["ud_ewt"]
        page.get_by_label("Optimizer").select_option("not recorded")
        assert page.locator(".entry:visible").count() == 0
        for name in ("Placement", "Network", "Optimizer"):
            page.get_by_label(name).select_option("all")
        # The script counts the cells anew, and must say what Python wrote.
        assert page.evaluate(SAID) == before


def test_the_sentences_are_written_before_any_script_runs(browser: Browser, atlas: Path) -> None:
    with _Visit(browser, atlas, **ATLAS) as page:
        scripted = page.locator(".said").all_inner_texts()
    with _Visit(browser, atlas, script=False, **ATLAS) as page:
        assert page.locator(".said").all_inner_texts() == scripted
        assert not page.locator("form").is_visible()
        page.locator("button.open").nth(5).click()
        assert page.locator(".detail:popover-open dt", has_text="Batch size").is_visible()


def test_a_detail_opens_and_closes_by_keyboard(browser: Browser, atlas: Path) -> None:
    with _Visit(browser, atlas, **ATLAS) as page:
        button = page.get_by_role("button", name="Details of detach_norm in digits", exact=True)
        button.focus()
        page.keyboard.press("Enter")
        detail = page.get_by_role("dialog", name="detach_norm on digits")
        assert detail.is_visible()
        assert "normscope compare digits" in detail.inner_text()
        assert "[+0.88, +4.75]" in detail.inner_text()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Close"
        page.keyboard.press("Escape")
        assert not detail.is_visible()
        assert button.evaluate("(each) => each === document.activeElement")


def test_tab_reaches_every_control_of_the_atlas(browser: Browser, atlas: Path) -> None:
    with _Visit(browser, atlas, **ATLAS) as page:
        controls = page.evaluate(CONTROLS.replace("a, button", "a, select, button"))
        for _ in range(controls):
            page.keyboard.press("Tab")
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.evaluate("document.activeElement.matches('#made a')")


@pytest.mark.parametrize("width", [340, 1280])
def test_the_atlas_is_a_table_at_any_width(browser: Browser, atlas: Path, width: int) -> None:
    found = read_atlas(atlas)
    with _Visit(browser, atlas, width=width, **ATLAS) as page:
        table = page.locator(".matrix")
        assert table.get_by_role("columnheader").count() == len(found.tasks)
        assert table.get_by_role("rowheader").count() == len(found.norms)
        assert page.evaluate("[...document.querySelectorAll('th')].every((head) => head.scope)")
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((head) => Number(head.tagName[1]))")
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_cell_leads_to_the_page_of_its_study(browser: Browser, atlas: Path) -> None:
    visit = _Visit(browser, atlas, **ATLAS)
    visit.page.locator(".entry a", has_text="rt").first.click()
    assert visit.page.locator("body").inner_text() == "the page of the study"
    visit.context.close()


def test_the_atlas_on_paper_is_light_and_not_cut(browser: Browser, atlas: Path) -> None:
    with _Visit(browser, atlas, scheme="dark", **ATLAS) as page:
        page.emulate_media(media="print", color_scheme="dark")
        page.set_viewport_size({"width": 703, "height": 900})
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(CUT) == []
        assert not page.locator("form").is_visible()
        assert page.locator(".entry:visible").count() == page.locator(".entry").count()
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
