"""The report in a real browser. Skipped without one, since test_report.py tests its structure."""

import shutil

import numpy as np
import pytest

from lightning_pareto import SamplePreviews, render_report, suspected_samples
from tests.report._results import everything
from tests.report.html.test_report import EVIL, NAMES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a report, and fail if it writes to the console or requests anything."""
    messages, requests = [], []

    def open_page(text, width=1200, scheme="light"):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert messages == []
    assert [url for url in requests if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1


def report(k=3, absent=(1,), names=NAMES, text=None):
    matrix, verdict, weights, found = everything(k, 40 * k, absent, names)
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    previews = SamplePreviews(
        {int(i): text or picture for i in suspected_samples(matrix, 48).index}, matrix.category_names
    )
    page = render_report(verdict, influence=matrix, weights=weights, result=found, previews=previews)
    return page, verdict


def first_cells(page):
    return page.locator("table").first.locator("tbody th").all_inner_texts()


def test_headings_sort_by_mouse_and_keyboard(visit):
    text, verdict = report()
    page = visit(text)
    head = page.locator("thead th", has_text="Held-out gain").first
    gains = dict(zip(NAMES, verdict.held_out_gain, strict=True))
    rising = sorted(["cat", "cow"], key=gains.get)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_cells(page) == [*rising, "dog"], "the absent class comes last"
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert first_cells(page) == [*rising[::-1], "dog"]
    name = page.locator("thead th").first
    name.locator("button").press("Space")
    assert first_cells(page) == sorted(NAMES)
    assert (name.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", "none")


@pytest.mark.parametrize(
    ("k", "names", "text"), [(3, NAMES, None), (100, None, None), (2, ["x" * 200, "y"], "w" * 400)]
)
def test_phone_needs_no_horizontal_scrolling(visit, k, names, text):
    page = visit(report(k, (), names, text)[0], width=360)
    for details in page.locator("details").all():
        details.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


def test_dark_mode_has_light_text_on_dark_background(visit):
    page, lightness = visit(report()[0]), {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        lightness[scheme] = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (paper, ink)]
    assert lightness["light"][0] > 200
    assert lightness["light"][1] < 100
    assert lightness["dark"][0] < 50
    assert lightness["dark"][1] > 180


def test_names_and_texts_run_nothing(visit):
    page = visit(report(names=[EVIL, "dog", "<b>cow</b>"], text=EVIL)[0])
    assert page.locator("script").count() == 2
    assert page.locator("b, [onclick], [onerror]").count() == 0
    assert EVIL in page.locator("blockquote").first.inner_text()


def test_injected_script_does_not_run(browser):
    text, _ = report()
    page = browser.new_page()
    page.set_content(text.replace("</body>", "<script>document.title = 'broken into'</script></body>"))
    assert page.title().startswith("Pareto report")


def test_all_text_of_a_figure_is_inside_it(visit):
    page = visit(report(10, (4,), [f"class number {i}" for i in range(10)])[0])
    outside = page.evaluate(
        """() => [...document.querySelectorAll("svg.figure")].flatMap((svg) => {
          const frame = svg.getBoundingClientRect();
          return [...svg.querySelectorAll("text")].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 4 || box.right > frame.right + 4;
          }).map((text) => text.textContent);
        })"""
    )
    assert outside == []
