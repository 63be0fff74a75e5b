"""What the dashboard answers: Optuna's best trial, and never what was true before."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState, create_trial

from hpo.dashboard import Dashboard
from storage import open_storage
from tests.hpo.dashboard_support import PARAMS, SPACE, add, ask, make_study, serving
from tests.postgres import PostgresServer


def stock(study: optuna.Study, path: str, query: str = "") -> Any:
    """Return what optuna-dashboard by itself answers."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
    }
    app = optuna_dashboard.wsgi(study._storage)
    return json.loads(b"".join(app(environ, lambda status, headers, error=None: None)))


@pytest.mark.filterwarnings("ignore:.*set_metric_names:optuna.exceptions.ExperimentalWarning")
def test_answers_are_those_of_optuna_dashboard(url: str) -> None:
    study = make_study(url)
    study.set_user_attr("data", {"pairs": 3})
    study.set_metric_names(["ROC AUC"])
    optuna_dashboard.save_note(study, "# A study\n" * 500)  # a note in several pieces
    add(study, 0.7)
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params=PARAMS,
            distributions=SPACE,
            intermediate_values={0: 0.1, 1: float("nan"), 2: float("inf")},
            user_attrs={"metrics": {"f1": 0.5}, "size": 3},
        )
    )
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.enqueue_trial({"x": 0.25})
    running = study.ask(SPACE)
    running.report(0.3, 0)
    study.enqueue_trial({"x": 0.75})
    optuna_dashboard.save_note(running, "so far **so good** ✓" * 200)
    make_study(url, "other", "minimize")

    with serving(url) as dashboard:
        for query in ("", "after=2", "after=6", "after=99"):
            path = "/api/studies/1"
            assert ask(dashboard, f"{path}?{query}").json == stock(study, path, query)
        assert ask(dashboard, "/api/studies").json == stock(study, "/api/studies")
        assert ask(dashboard, "/api/studies/9").json == stock(study, "/api/studies/9")
        assert ask(dashboard, "/api/studies/9").status == 404
        assert ask(dashboard, "/api/studies/1?after=-1").status == 400
        assert ask(dashboard, "/csv/1").body.count(b"\n") == 6


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_trial_is_the_best_feasible_one(url: str, direction: str) -> None:
    study = make_study(url, direction=direction)
    sign = 1 if direction == "maximize" else -1
    add(study, sign * 0.9, recall=0.2, f1=-0.5)  # the best value, but not feasible
    with serving(url) as dashboard:
        answer = ask(dashboard, "/api/studies/1")
        assert (answer.status, answer.json["best_trials"]) == (200, [])
        add(study, sign * 0.7, recall=0.0)
        add(study, sign * 0.8, recall=-0.1, f1=-0.1)
        add(study, sign * 0.1)
        found = ask(dashboard, "/api/studies/1").json

    assert [trial["number"] for trial in found["best_trials"]] == [study.best_trial.number] == [2]
    assert [trial["constraints"] for trial in found["trials"]] == [
        [-0.5, 0.2],  # by the constraints' names
        [0.0],
        [-0.1, -0.1],
        [],
    ]
    assert not any("constraints" in trial.system_attrs for trial in study.trials)


def test_the_front_of_several_directions_is_feasible(sqlite_url: str) -> None:
    study = optuna.create_study(
        study_name="s", storage=open_storage(sqlite_url), directions=["maximize", "minimize"]
    )
    add(study, 0.9, 0.1, recall=0.2)
    add(study, 0.8, 0.2, recall=-0.2)
    add(study, 0.7, 0.1, recall=-0.2)
    add(study, 0.6, 0.3, recall=-0.2)
    with serving(sqlite_url) as dashboard:
        found = ask(dashboard, "/api/studies/1").json
    assert [trial["number"] for trial in found["best_trials"]] == [1, 2]
    assert {trial.number for trial in study.best_trials} == {1, 2}


def test_every_change_is_in_the_next_answer(url: str) -> None:
    study = make_study(url)
    add(study, 0.7)
    running = study.ask(SPACE)

    with serving(url) as dashboard:

        def trials() -> Any:
            return ask(dashboard, "/api/studies/1").json["trials"]

        assert [trial["state"] for trial in trials()] == ["Complete", "Running"]
        running.report(0.25, 1)
        assert trials()[1]["intermediate_values"] == [{"step": 1, "value": 0.25}]
        running.set_user_attr("model", "here")
        assert trials()[1]["user_attrs"] == [{"key": "model", "value": "here"}]
        study.enqueue_trial({"x": 0.5})
        assert trials()[2]["state"] == "Waiting"
        study.tell(running, 0.8)
        assert trials()[1]["values"] == [0.8]
        optuna_dashboard.save_note(study, "first")
        assert ask(dashboard, "/api/studies/1").json["note"] == {"version": 1, "body": "first"}
        for version, text in ((1, "of a finished trial"), (2, "changed")):
            optuna_dashboard.save_note(running, text)
            assert trials()[1]["note"] == {"version": version, "body": text}
            assert ask(dashboard, "/api/studies/1?after=2").json["best_trials"][0]["note"] == {
                "version": version,
                "body": text,
            }
        make_study(url, "other")
        listed = ask(dashboard, "/api/studies").json["study_summaries"]
        assert [each["study_name"] for each in listed] == ["s", "other"]
        (importances,) = ask(dashboard, "/api/studies/1/param_importances").json.values()
        assert {each["name"] for each in importances[0]} == set(SPACE)


def test_a_study_that_takes_a_deleted_ones_id_is_another(sqlite_url: str) -> None:
    study = make_study(sqlite_url)
    for value in (0.1, 0.2, 0.3):
        add(study, value)
    with serving(sqlite_url) as dashboard:
        assert len(ask(dashboard, "/api/studies/1").json["trials"]) == 3
        optuna.delete_study(study_name="s", storage=study._storage)
        assert ask(dashboard, "/api/studies/1").status == 404
        again = make_study(sqlite_url)
        for value in (0.4, 0.5, 0.6, 0.7):
            add(again, value)
        found = ask(dashboard, "/api/studies/1").json["trials"]
    assert [trial["values"] for trial in found] == [[0.4], [0.5], [0.6], [0.7]]


def test_a_file_that_is_replaced_or_gone_is_noticed(sqlite_url: str, tmp_path: Path) -> None:
    add(make_study(sqlite_url), 0.1)
    with serving(sqlite_url) as dashboard:
        assert ask(dashboard, "/api/studies/1").json["trials"][0]["values"] == [0.1]
        for path in tmp_path.glob("hpo.db*"):
            path.unlink()
        gone = ask(dashboard, "/api/studies/1")
        assert gone.status == 503
        assert "hpo.db: No such file" in gone.json["reason"]
        assert not list(tmp_path.glob("hpo.db*"))
        add(make_study(sqlite_url), 0.2)
        assert ask(dashboard, "/api/studies/1").json["trials"][0]["values"] == [0.2]


def test_a_lost_connection_is_made_again(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    study = make_study(postgres_url)
    add(study, 0.1)
    database = urlsplit(postgres_url).path.lstrip("/")
    with serving(postgres_url) as dashboard:
        assert len(ask(dashboard, "/api/studies/1").json["trials"]) == 1
        add(study, 0.2)
        postgres_server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        assert len(ask(dashboard, "/api/studies/1").json["trials"]) == 2
        postgres_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        postgres_server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        refused = ask(dashboard, "/api/studies/1")
        assert refused.status == 503
        assert "not currently accepting connections" in refused.json["reason"]
        postgres_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        assert len(ask(dashboard, "/api/studies/1").json["trials"]) == 2


def test_an_answer_that_the_browser_has_is_not_sent_again(url: str) -> None:
    study = make_study(url)
    for value in range(5):
        add(study, value)
    with serving(url) as dashboard:
        whole = ask(dashboard, "/api/studies/1")
        small = ask(dashboard, "/api/studies/1", Accept_Encoding="gzip, deflate")
        assert small.json == whole.json
        assert len(small.body) < len(whole.body) / 2
        tag = whole.headers["ETag"]
        same = ask(dashboard, "/api/studies/1", If_None_Match=tag)
        assert (same.status, same.body) == (304, b"")
        assert ask(dashboard, "/api/studies/1", "HEAD").headers["Content-Length"] == str(
            len(whole.body)
        )
        add(study, 9)
        assert ask(dashboard, "/api/studies/1", If_None_Match=tag).status == 200


def test_many_ask_at_once(url: str) -> None:
    study = make_study(url)
    wrong: list[Any] = []

    def poll(dashboard: Dashboard, done: threading.Event) -> None:
        seen = 0
        while not done.is_set():
            answer = ask(dashboard, "/api/studies/1")
            if answer.status != 200 or len(answer.json["trials"]) < seen:
                wrong.append(answer)
                return
            seen = len(answer.json["trials"])

    with serving(url) as dashboard:
        done = threading.Event()
        threads = [threading.Thread(target=poll, args=(dashboard, done)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for value in range(20):
            add(study, value)
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert len(ask(dashboard, "/api/studies/1").json["trials"]) == 20


@pytest.mark.slow
def test_a_large_study_is_answered_as_fast_as_a_small_one(tmp_path: Path) -> None:
    """From the cache, 5,000 trials take at most twice as long as 500.

    As browsers ask: compressed, and for what is new. Without compression the larger answer has ten
    megabytes and takes as long as it takes to send them.
    """
    path = Path(__file__).parents[2] / "benchmarks" / "dashboard_speed.py"
    spec = importlib.util.spec_from_file_location("dashboard_speed", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # where its dataclass looks itself up
    spec.loader.exec_module(benchmark)

    urls = {trials: f"sqlite:///{tmp_path}/{trials}.db" for trials in (500, 5000)}
    for trials, url in urls.items():
        benchmark.fill(url, trials)
    with serving(urls[500]) as small, serving(urls[5000]) as large:
        servers = {500: small, 5000: large}
        for query in ("", "?after={last}"):

            def seconds(trials: int, query: str = query) -> float:
                began = time.perf_counter()
                asked = query.format(last=trials - 1)
                answer = ask(servers[trials], f"/api/studies/1{asked}", Accept_Encoding="gzip")
                took = time.perf_counter() - began
                assert len(answer.json["trials"]) == (1 if query else trials)
                return took

            seconds(500), seconds(5000)
            pairs = [(seconds(500), seconds(5000)) for _ in range(15)]
            assert statistics.median(large / small for small, large in pairs) < 2
