"""The report of a study: what it says, where it refuses, and that it bears what a study holds."""

from __future__ import annotations

import html
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from typer import Typer
from typer.testing import CliRunner

from hpo.cli_report import report
from hpo.errors import InputError
from hpo.report import answers, show_in_dashboard, write_report
from storage import open_storage, own_study
from tests.hpo.report_support import MODELS, PAIRS, SIZES, finish, metrics_of, searched

app = Typer()
app.command()(report)
app.command("other")(lambda: None)  # with one command alone, its name would not be expected


def text_of(page: str) -> str:
    """Return what people read on a page."""
    body = page.partition("<body>")[2]
    without = re.sub(r"<script.*?</script>", " ", body, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", without)))


def figures_of(page: str) -> dict[str, Any]:
    """Return the figures of a page by name; plotly itself accepts each of them."""
    found = re.findall(
        r'<div class="plot" id="([^"]+)".*?<script type="application/json">(.*?)</script>',
        page,
        flags=re.DOTALL,
    )
    figures = {name: json.loads(data) for name, data in found}
    for figure in figures.values():
        go.Figure(figure)
    return figures


def written(study: optuna.Study, directory: Path, **more: Any) -> tuple[str, dict[str, Any]]:
    """Return what people read on a study's page, and its figures."""
    page = write_report(study, directory, **more).read_text(encoding="utf-8")
    return text_of(page), figures_of(page)


def traces(figure: dict[str, Any]) -> dict[str, Any]:
    """Return what a figure draws, by name."""
    return {trace.get("name", ""): trace for trace in figure["data"]}


@pytest.fixture(scope="module")
def final() -> optuna.Study:
    """A study with finals."""
    study = searched()
    finish(study)
    return study


ALL = {
    "hpo-error-1",
    "hpo-error-2",
    "hpo-scaling-1",
    "hpo-scaling-2",
    "hpo-history",
    "hpo-importances",
    "hpo-dimension",
    "hpo-cost",
}


def test_a_study_with_finals(final: optuna.Study, tmp_path: Path) -> None:
    text, figures = written(final, tmp_path)
    assert set(figures) == ALL
    trial = final.user_attrs["winner"]["trial"]
    assert f"Winner Trial {trial}, " in text
    assert "On 4,180 pairs that trained and chose nothing (95 % intervals): ROC AUC 0.9188" in text
    assert "Against openai:text-embedding-3-small, 512 dimensions" in text
    assert "ROC AUC +0.0220 (+0.0160 to +0.0280), better beyond chance" in text
    assert "3 new seeds gave" in text
    assert "the search made it look better, by" in text
    assert "Cheapest as good" in text
    assert "Test split opened Once: 2026-11-01T17:20:00+00:00" in text
    assert f"Measured on {PAIRS:,} pairs of the validation split." in text
    assert "Measured on 4,180 pairs of the test split, 1,571 of which mean the same" in text


def test_a_search_without_finals_says_that_it_is_optimistic(tmp_path: Path) -> None:
    study = searched()
    text, figures = written(study, tmp_path)
    assert set(figures) == ALL
    assert f"Best so far Trial {study.best_trial.number}, " in text
    assert "looks better than it is" in text
    assert "there is no winner yet" in text
    assert "Nothing here was measured on the test split." in text
    assert "On the test split" not in text


def test_a_panel_shows_the_best_trial_at_each_number_of_pairs(
    final: optuna.Study, tmp_path: Path
) -> None:
    _, figures = written(final, tmp_path)
    panel = figures["hpo-error-1"]
    model = MODELS[1]  # it has more completed trials
    line = traces(panel)["256 dimensions"]
    for (number, size, bar), error in zip(line["customdata"], line["y"], strict=True):
        rivals = [
            trial
            for trial in final.get_trials(states=(TrialState.COMPLETE,))
            if trial.params["base_model"] == model
            and trial.params["num_samples"] == size
            and trial.params["dimension"] == 256
        ]
        best = max(rivals, key=lambda trial: trial.value or 0.0)
        assert number == best.number
        assert error == pytest.approx(1 - best.user_attrs["metrics"]["accuracy"], abs=1e-5)
        assert bar == pytest.approx(1.96 * math.sqrt(error * (1 - error) / PAIRS), rel=1e-2)
    api = traces(panel)["openai:text-embedding-3-small, 512 dimensions"]
    assert api["y"] == [0.166, 0.166]
    assert api["line"]["dash"] != "solid"
    assert f"{MODELS[0]}, untuned" not in traces(panel)  # the other panel's line
    star = traces(panel)["the winner on the test split"]
    assert star["y"] == [0.131]
    assert star["error_y"]["array"] == star["error_y"]["arrayminus"] == [0.009]
    ranges = {tuple(figures[name]["layout"]["yaxis"]["range"]) for name in sorted(ALL)[2:4]}
    assert len(ranges) == 1  # panels compare


def test_how_many_more_pairs(tmp_path: Path) -> None:
    study = searched()
    bge, mini = answers(study, tmp_path, 0.14)
    assert bge.startswith(f"{MODELS[1]}: about 2,")
    assert bge.endswith("no more than were tried (8,000)")
    assert mini.startswith(f"{MODELS[0]}: about ")
    for answer in answers(study, tmp_path, 0.01):
        assert "cannot be said: an error of 0.01 is below the floor" in answer
    text, _ = written(study, tmp_path, targets=[0.1234])
    assert "an error rate of 0.1234" in text


def test_points_of_a_law_are_the_best_of_equally_many_draws(tmp_path: Path) -> None:
    """More draws at one size change nothing: only the first ones count, pruned ones too."""
    study = optuna.create_study(direction="maximize")
    space = {"num_samples": CategoricalDistribution(SIZES)}

    def add(size: int, error: float | None) -> None:
        state = TrialState.PRUNED if error is None else TrialState.COMPLETE
        metrics = None if error is None else metrics_of(error, size, 384)
        study.add_trial(
            create_trial(
                state=state,
                params={"num_samples": size},
                distributions=space,
                value=None if metrics is None else metrics["roc_auc"],
                user_attrs={} if metrics is None else {"metrics": metrics},
            )
        )

    for size in SIZES:
        add(size, None)
        add(size, size**-0.4 + 0.1)
    law = written(study, tmp_path)[1]["hpo-scaling-1"]
    points = traces(law)["the best of 2 draws"]
    assert points["x"] == list(SIZES)
    for _ in range(20):
        add(8000, 0.01)
    again = written(study, tmp_path)[1]["hpo-scaling-1"]
    assert again == law


def test_heads_have_a_panel_and_a_law_of_their_own(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    kinds = {"head": ("head_num_samples", 0.3), "full": ("num_samples", 0.1)}
    for tuning, (name, floor) in kinds.items():
        for size in SIZES:
            metrics = metrics_of(size**-0.5 + floor, size, 384)
            study.add_trial(
                create_trial(
                    params={"tuning": tuning, name: size},
                    distributions={
                        "tuning": CategoricalDistribution(list(kinds)),
                        name: CategoricalDistribution(SIZES),
                    },
                    value=metrics["roc_auc"],
                    user_attrs={"metrics": metrics},
                )
            )
    text, figures = written(study, tmp_path)
    for what in ("Error rate", "Scaling law"):
        assert f"{what}: all trials, heads only" in text
        assert f"{what}: all trials, without heads" in text
    for name in ("hpo-error-1", "hpo-error-2"):
        errors = traces(figures[name])["384 dimensions"]["y"]
        assert errors == sorted(errors, reverse=True)


def test_a_law_is_refused_in_words(tmp_path: Path) -> None:
    study = searched(trials=4)
    text, figures = written(study, tmp_path)
    assert not {name for name in figures if "scaling" in name}
    assert "no law, as there are runs with" in text
    assert "different numbers of pairs, and a curve needs 4" in text
    assert "4 completed trials are too few to say which parameters mattered" in text


def test_trials_that_cost_nothing_are_shown_against_seconds(tmp_path: Path) -> None:
    study = searched(paid=False)
    text, figures = written(study, tmp_path)
    assert "Nothing was paid for trials, so that their time stands for the cost." in text
    assert figures["hpo-cost"]["layout"]["xaxis"]["title"]["text"] == "seconds that the trial took"


def plain(**more: Any) -> optuna.Study:
    """Return a study of somebody's own objective."""
    study = optuna.create_study(**more)
    for number in range(30):
        x = number / 30
        study.add_trial(
            create_trial(
                params={"x": x},
                distributions={"x": FloatDistribution(0, 1)},
                values=[x**2] * len(study.directions),
            )
        )
    return study


def test_a_plain_objective_has_the_figures_that_make_sense(tmp_path: Path) -> None:
    text, figures = written(plain(), tmp_path)
    assert set(figures) == {"hpo-history", "hpo-importances"}
    assert "No trial recorded measures of a model beside its value." in text
    assert text.count("No completed trial says both") == 4
    assert "The value that each trial returned." in text


def test_several_directions_leave_out_what_needs_one(tmp_path: Path) -> None:
    text, figures = written(plain(directions=["minimize", "maximize"]), tmp_path)
    assert figures == {}
    assert "The study has 2 directions (minimize, maximize)" in text
    assert "Left out: the study has several directions" in text


def test_no_trial_at_all(tmp_path: Path) -> None:
    text, figures = written(optuna.create_study(), tmp_path)
    assert figures == {}
    assert "No trial has completed yet." in text
    page = (tmp_path / "report.html").read_bytes()
    assert len(page) < 20_000  # without figures it needs no plotly


def test_one_trial(tmp_path: Path) -> None:
    text, figures = written(searched(trials=1), tmp_path)
    assert {"hpo-error-1", "hpo-history", "hpo-dimension", "hpo-cost"} == set(figures)
    assert "It is the best of 1 completed trial" in text


def test_trials_that_miss_a_requirement_do_not_win(tmp_path: Path) -> None:
    study = searched(trials=30)
    best = study.best_trial
    cheat = create_trial(
        params=best.params,
        distributions=best.distributions,
        value=0.999,
        user_attrs={"metrics": metrics_of(0.001, 8000, 384)},
        constraints={"recall>=0.5": 0.2},
    )
    study.add_trial(cheat)
    text, figures = written(study, tmp_path)
    assert f"Best so far Trial {best.number}, " in text
    assert "1 of the completed ones miss its requirements and cannot win." in text
    history = traces(figures["hpo-history"])
    assert max(history["the best so far"]["y"]) == pytest.approx(best.value, abs=1e-6)
    assert history["one that misses a requirement"]["y"] == [0.999]


NASTY = '</script><img src=x onerror="alert(1)">&amp;<b>'


@pytest.mark.filterwarnings("ignore:.*set_metric_names")
def test_names_are_text_everywhere(tmp_path: Path) -> None:
    study = searched(name=f"s {NASTY}")
    baselines = study.user_attrs["baselines"]
    baselines[2]["params"]["base_model"] = NASTY
    baselines[2]["source"] = NASTY
    study.set_user_attr("baselines", baselines)
    study.set_metric_names([NASTY])
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    ours = page.replace(re.findall(r"<script>.*?</script>", page, flags=re.DOTALL)[0], "")
    assert "<img" not in ours
    assert ours.count("</script>") == ours.count("<script")
    assert NASTY in text_of(page)
    names = [name for figure in figures_of(page).values() for name in traces(figure)]
    assert any("&lt;/script&gt;" in name for name in names)
    assert not any("<img" in name or "<b>" in name for name in names)


@pytest.mark.parametrize("path", ["/home/ann/models/tuned", "./models/tuned", r"C:\ann\tuned"])
def test_paths_stay_at_home(path: str, tmp_path: Path) -> None:
    study = searched()
    baselines = study.user_attrs["baselines"]
    baselines[2]["params"] = {"base_model": path}
    study.set_user_attr("baselines", baselines)
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert "ann" not in text_of(page).split()
    assert path not in page
    assert "tuned" in traces(figures_of(page)["hpo-error-1"])


NAMES = [
    "trial",
    "run",
    "params",
    "metrics",
    "measures",
    "accuracy",
    "roc_auc",
    "value",
    "low",
    "high",
    "pairs",
    "dimension",
    "num_samples",
    "cost",
    "dollars",
    "baselines",
    "attempts",
    "cheapest",
    "saves",
    "differences",
    "base_model",
    "mean",
    "search",
    "seconds",
]
KEYS = [
    "baselines",
    "finalists",
    "winner",
    "comparison",
    "evaluation",
    "openings",
    "hpo",
    "costs",
    "finalist_attempts",
    "evaluation_attempts",
    "baseline_attempts",
]

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**12)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 3, 0.5, 0.9, -0.0]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    attrs=st.dictionaries(st.sampled_from(KEYS), junk, max_size=5),
    metrics=st.lists(junk, min_size=1, max_size=4),
    values=st.lists(st.floats(allow_nan=False), min_size=4, max_size=4),
)
def test_whatever_a_study_holds_is_reported(
    attrs: dict[str, Any], metrics: list[Any], values: list[float], tmp_path: Path
) -> None:
    study = searched(trials=6)
    for key, value in attrs.items():
        study.set_user_attr(key, value)
    for value, found in zip(values, metrics, strict=False):
        user_attrs = {"metrics": found, "attempts": found}
        study.add_trial(create_trial(value=value, user_attrs=user_attrs))
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    figures_of(page)


def test_ten_thousand_trials(tmp_path: Path) -> None:
    study = searched(trials=10_000)
    began = time.monotonic()
    path = write_report(study, tmp_path)
    show_in_dashboard(study)
    assert time.monotonic() - began < 20
    page = path.read_text(encoding="utf-8")
    assert sum(len(json.dumps(figure)) for figure in figures_of(page).values()) < 1_000_000
    assert re.search(r"2,000 of [\d,]+ points are drawn", page)
    saved = get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id))
    assert all(len(figure) < 12_000 for figure in saved.values())


def test_the_page_is_whole_or_not_there(tmp_path: Path) -> None:
    study = searched(trials=3)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot write the report to .*file/report\.html"):
        write_report(study, tmp_path / "file")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="hpo report --out"):
        write_report(study, tmp_path, out=tmp_path / "taken")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken"]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = write_report(searched(trials=3), tmp_path).read_text(encoding="utf-8")
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page.partition("/**")[0])
    assert page.count("plotly.js v") == 1


def test_figures_in_the_dashboard_are_written_over(final: optuna.Study) -> None:
    assert set(show_in_dashboard(final)) == ALL
    attrs = final._storage.get_study_system_attrs(final._study_id)
    first = get_plotly_graph_objects(attrs)
    show_in_dashboard(final)
    assert get_plotly_graph_objects(final._storage.get_study_system_attrs(final._study_id)) == first
    error = json.loads(first["hpo-error-1"])
    title = error["layout"]["title"]
    assert title["text"] == f"Error rate: {MODELS[1]}"
    assert title["subtitle"]["text"] == f"Measured on {PAIRS:,} pairs of the validation split."


def saved_in(url: str) -> set[str]:
    study = optuna.load_study(study_name=None, storage=open_storage(url))
    return set(get_plotly_graph_objects(study._storage.get_study_system_attrs(study._study_id)))


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(url: str, in_directory: Path) -> None:
    searched(open_storage(url))
    done = CliRunner().invoke(app, ["report", "--storage", url, "--error", "0.14"])
    assert done.exit_code == 0, done.output
    assert (in_directory / "runs/pairs-1/report.html").is_file()
    lines = done.output.splitlines()
    assert lines[0] == "report runs/pairs-1/report.html"
    assert lines[1].startswith(f"error 0.14  {MODELS[1]}: about 2,")
    assert lines[-1] == "8 figures are in the dashboard, too: hpo dashboard --study pairs-1"
    assert saved_in(url) == ALL


def test_the_command_leaves_a_running_study_alone(sqlite_url: str, in_directory: Path) -> None:
    searched(open_storage(sqlite_url))
    with own_study(sqlite_url, "pairs-1"):
        arguments = ["report", "--storage", sqlite_url, "--out", "here.html"]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "the figures are not in the dashboard: the study is run by" in done.output
    assert saved_in(sqlite_url) == set()
    assert (in_directory / "here.html").is_file()


@pytest.mark.parametrize("rate", ["0", "1", "12", "nan"])
def test_an_error_rate_that_is_none_is_refused(
    rate: str, sqlite_url: str, in_directory: Path
) -> None:
    done = CliRunner().invoke(app, ["report", "--storage", sqlite_url, "--error", rate])
    assert done.exit_code == 2
    assert "an error rate is above 0 and below 1" in done.stderr


def test_nothing_lies_beyond_the_axis_where_few_sizes_were_tried(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    for trial in searched().trials:
        if trial.params.get("num_samples") in (2000, 4000):
            study.add_trial(trial)
    finish(study)
    _, figures = written(study, tmp_path)
    panels = [figure for name, figure in figures.items() if name.startswith("hpo-error")]
    assert any("the winner on the test split" in traces(panel) for panel in panels)
    for panel in panels:
        low, high = (10**end for end in panel["layout"]["xaxis"]["range"])
        for trace in panel["data"]:
            assert all(low <= x <= high for x in trace["x"]), trace["name"]
