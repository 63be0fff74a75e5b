"""The report in a real browser: every figure is drawn, nothing is complained about, nothing is cut.

Needs Chromium and the package playwright, as the tests of the dashboard's pages do; is skipped
without them. With ``HPO_SCREENSHOTS=folder`` it leaves pictures there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.report import show_in_dashboard, write_report
from storage import open_storage
from tests.hpo.dashboard_support import serving
from tests.hpo.report_support import MODELS, finish, searched

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser."""
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox for root, as whom tests in containers run.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[str, int], Any]]:
    """Open an address in a page so wide; ``problems`` of the page are what it complains about."""
    pages = []

    def open_page(address: str, width: int) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.problems = []
        page.requested = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: note(page, line))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for page in pages:
        page.close()


def note(page: Any, line: Any) -> None:
    if line.type in ("error", "warning"):
        page.problems.append(line.text)


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("HPO_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def wait_for_figures(page: Any) -> None:
    for place in range(page.locator(".plot").count()):
        page.locator(".plot").nth(place).locator(".main-svg").first.wait_for()


def drawn(page: Any) -> int:
    """Return how many figures show lines, points or bars."""
    found: int = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter(plot =>
            plot.querySelector(".point path, .point, path.js-line")).length"""
    )
    return found


def cut_off(page: Any) -> list[str]:
    """Return which texts of figures reach out of their figure."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].flatMap(plot => {
            const frame = plot.getBoundingClientRect();
            const texts = plot.querySelectorAll(".legendtext, .xtitle, .ytitle, .xtick, .ytick");
            return [...texts].filter(text => {
                const box = text.getBoundingClientRect();
                return box.width > 0 && (box.left < frame.left - 1 || box.bottom > frame.bottom + 1
                    || box.right > frame.right + 1);
            }).map(text => `${plot.id}: ${text.textContent}`);
        })"""
    )
    return found


def covered(page: Any) -> list[str]:
    """Return which legends lie on the title of an axis."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter(plot => {
            const legend = plot.querySelector(".legend"), title = plot.querySelector(".xtitle");
            return legend && title && legend.getBoundingClientRect().top <
                title.getBoundingClientRect().bottom - 2;
        }).map(plot => plot.id)"""
    )
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The database of the study."""
    return f"sqlite:///{tmp_path_factory.mktemp('study')}/hpo.db"


@pytest.fixture(scope="module")
def study(url: str) -> optuna.Study:
    """A study with finals."""
    study = searched(open_storage(url))
    finish(study)
    return study


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_is_drawn(
    study: optuna.Study, tmp_path: Path, opened: Callable[[str, int], Any], width: int
) -> None:
    page = opened(write_report(study, tmp_path).as_uri(), width)
    wait_for_figures(page)
    assert page.locator(".plot").count() == drawn(page) == 8
    assert page.problems == []
    assert len(page.requested) == 1  # itself
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert cut_off(page) == []
    assert covered(page) == []
    picture(page, f"report-{width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_table_scrolls_in_its_box(
    study: optuna.Study, tmp_path: Path, opened: Callable[[str, int], Any], width: int
) -> None:
    page = opened(write_report(study, tmp_path).as_uri(), width)
    table = page.locator(".table").first
    scrolls = table.evaluate("box => box.scrollWidth > box.clientWidth")
    assert scrolls == (width == 400)


def test_a_page_follows_its_width(
    study: optuna.Study, tmp_path: Path, opened: Callable[[str, int], Any]
) -> None:
    page = opened(write_report(study, tmp_path).as_uri(), 1280)
    wait_for_figures(page)
    plot = page.locator("#hpo-history .main-svg").first
    before = plot.bounding_box()["width"]
    page.set_viewport_size({"width": 600, "height": 900})
    page.wait_for_timeout(500)  # the page forbids the evaluation that a better wait needs
    assert plot.bounding_box()["width"] < 600 < before
    assert page.problems == []


def test_markup_in_names_is_text(tmp_path: Path, opened: Callable[[str, int], Any]) -> None:
    nasty = "<img src=x onerror=\"console.error('run')\"><b>bold</script>"
    study = searched(name=f"study {nasty}")
    baselines = study.user_attrs["baselines"]
    baselines[2]["params"] = {"base_model": nasty}
    study.set_user_attr("baselines", baselines)
    page = opened(write_report(study, tmp_path).as_uri(), 1280)
    wait_for_figures(page)
    assert page.problems == []
    assert page.locator("img").count() == 0
    assert nasty in page.locator("h1").inner_text()
    assert "<b>bold</script>" in page.locator("#hpo-history .legend").text_content()


def test_optuna_dashboard_draws_the_figures(
    study: optuna.Study, url: str, opened: Callable[[str, int], Any]
) -> None:
    show_in_dashboard(study)
    with serving(url) as dashboard:
        page = opened(dashboard.url, 1400)
        page.get_by_text(f"Error rate: {MODELS[1]}").wait_for()
        for title in ("Scaling law: ", "ROC AUC by dimension", "ROC AUC by cost"):
            page.get_by_text(title).first.wait_for()
        assert [text for text in page.problems if "error" in text.lower()] == []
        picture(page, "report-in-the-dashboard")
