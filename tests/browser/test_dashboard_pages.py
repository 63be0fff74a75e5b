"""The dashboard's pages in a real browser: what people see is what Optuna says.

Needs Chromium and the package playwright, which the project does not install for itself
(``pip install playwright``, and Debian's package ``chromium``); is skipped without them. With
``HPO_SCREENSHOTS=folder`` it leaves pictures of the pages there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.dashboard import Dashboard
from storage import open_storage
from tests.hpo.dashboard_support import serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "loss": CategoricalDistribution(["OnlineContrastive", "CoSENT"]),
}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """A study whose highest value, of trial 2, violates a constraint; trial 3 is the best."""
    study = optuna.create_study(
        study_name="demo",
        storage=open_storage(f"sqlite:///{tmp_path}/hpo.db"),
        direction="maximize",
    )
    for number, value in enumerate([0.71, 0.82, 0.97, 0.93, 0.78]):
        study.add_trial(
            create_trial(
                params={"learning_rate": 1e-4 * (number + 1), "loss": "CoSENT"},
                distributions=SPACE,
                value=value,
                intermediate_values={25: value - 0.1, 100: value},
                constraints={"recall>=0.5": 0.2 if number == 2 else -0.1},
            )
        )
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={25: 0.6}))
    optuna_dashboard.save_note(study, "The best **feasible** trial is number 3.")
    best = optuna.trial.Trial(study, study.trials[3]._trial_id)
    optuna_dashboard.save_note(best, "| step | value |\n|---|---|\n| 100 | 0.9300 |")
    return study


@pytest.fixture
def dashboard(study: optuna.Study, tmp_path: Path) -> Iterator[Dashboard]:
    """The study's dashboard, read-only."""
    with serving(f"sqlite:///{tmp_path}/hpo.db") as dashboard:
        yield dashboard


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a browser; its ``problems`` are errors on its console and in its scripts."""
    with playwright.sync_playwright() as started:
        # Chromium has no sandbox for root, as whom tests in containers run.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1800})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "console",
            lambda line: page.problems.append(line.text) if line.type == "error" else None,
        )
        yield page
        browser.close()


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("HPO_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)  # plots draw themselves after the page is there
        page.screenshot(path=f"{folder}/{name}.png")


def test_people_see_the_best_feasible_trial_and_the_notes(
    dashboard: Dashboard, study: optuna.Study, page: Any
) -> None:
    base = dashboard.url.partition("/dashboard")[0]
    page.goto(base)
    page.get_by_text("1. demo").wait_for()
    picture(page, "studies")

    page.goto(dashboard.url)
    page.get_by_text("Best Trial (number=3)").wait_for()
    page.get_by_text("0.93", exact=True).first.wait_for()
    picture(page, "study")

    page.goto(f"{dashboard.url}/note")
    page.get_by_text("feasible", exact=True).wait_for()
    picture(page, "note")

    page.goto(f"{dashboard.url}/trials?numbers=3")
    page.get_by_text("0.9300").wait_for()
    assert page.get_by_text("Best Trial", exact=True).count() == 2  # in the list, and on its page
    picture(page, "trial")
    assert page.problems == []

    optuna_dashboard.save_note(study, "The best trial is **another** one.")
    page.goto(f"{dashboard.url}/note")
    page.get_by_text("another", exact=True).wait_for()


def edit_note(dashboard: Dashboard, page: Any, text: str) -> int:
    """Edit the study's note on its page and return the status of the answer."""
    page.goto(f"{dashboard.url}/note")
    page.get_by_text("feasible", exact=True).wait_for()
    page.get_by_role("button").last.click()  # the pencil
    page.locator("textarea").first.fill(text)
    with page.expect_response(lambda response: response.request.method == "PUT") as answered:
        page.get_by_role("button", name="Save").click()
    status: int = answered.value.status
    return status


def test_an_edit_is_refused_in_words(dashboard: Dashboard, study: optuna.Study, page: Any) -> None:
    assert edit_note(dashboard, page, "written in the browser") == 403
    page.get_by_text("the dashboard is read-only and nothing was changed").first.wait_for()
    picture(page, "refused")
    assert optuna_dashboard.get_note(study) == "The best **feasible** trial is number 3."


def test_an_edit_is_saved_where_it_is_allowed(
    study: optuna.Study, tmp_path: Path, page: Any
) -> None:
    with serving(f"sqlite:///{tmp_path}/hpo.db", allow_writes=True) as dashboard:
        assert edit_note(dashboard, page, "written **here**") == 200
        page.get_by_text("Success to save the note").wait_for()
        page.get_by_text("here", exact=True).wait_for()
        picture(page, "saved")
        assert page.problems == []
    assert optuna_dashboard.get_note(study) == "written **here**"
