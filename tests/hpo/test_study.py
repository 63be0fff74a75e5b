"""A study from beginning to end, from Python, on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

import hpo
from hpo.errors import InputError, StudyStoppedError
from hpo.settings import check
from hpo.study import run_study
from storage import OwnedError, StorageError, own_study
from tests.hpo import sample_objectives
from tests.hpo.sample_objectives import Offers

QUADRATIC = "tests.hpo.sample_objectives:quadratic"


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def seen_by_optuna(name: str, url: str = "sqlite:///hpo.db") -> list[optuna.trial.FrozenTrial]:
    """Return the trials as somebody sees them who has Optuna and not hpo."""
    return optuna.load_study(study_name=name, storage=url).trials


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_plain_optuna_sees_exactly_the_finished_trials(
    database: str, request: pytest.FixtureRequest
) -> None:
    url = "sqlite:///hpo.db"
    if database == "postgresql":
        url = request.getfixturevalue("postgres_url")
    study = hpo.optimize(
        "tests.hpo.sample_objectives:pruning",
        trials=24,
        storage=url,
        study="plain",
        workers=2,
        progress=False,
    )
    url = url.replace("postgresql://", "postgresql+psycopg2://")
    trials = seen_by_optuna("plain", url)
    assert len(trials) == len(study.trials) == 24
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    for trial in trials:
        assert set(trial.params) == {"x"}
        assert trial.value == trial.params["x"]
        assert set(trial.intermediate_values.values()) == {trial.params["x"]}


def test_inline_runs_what_no_worker_could_import() -> None:
    study = hpo.optimize(
        lambda trial: trial.suggest_float("x", 0, 1),
        trials=3,
        executor="inline",
        study="lambda",
        progress=False,
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


def test_the_seed_decides_every_value() -> None:
    def values(name: str, seed: int) -> list[float | None]:
        study = hpo.optimize(
            sample_objectives.quadratic,
            trials=15,
            study=name,
            executor="inline",
            seed=seed,
            progress=False,
        )
        return [trial.value for trial in study.trials]

    assert values("a", 1) == values("b", 1)
    assert values("c", 2) != values("b", 1)


def test_a_second_run_draws_new_numbers() -> None:
    for trials in (5, 10):
        hpo.optimize(
            QUADRATIC, trials=trials, study="s", sampler="random", executor="inline", progress=False
        )
    drawn = [trial.params["x"] for trial in seen_by_optuna("s")]
    assert len(set(drawn)) == 10


def test_an_objective_that_offers_everything_is_taken_up_on_all_of_it() -> None:
    study = hpo.optimize(Offers(bound=0.5), trials=6, workers=2, progress=False)
    assert study.study_name == "offers"
    assert study.direction.name == "MAXIMIZE"
    assert study.metric_names == ["score"]
    # Two workers score them at the same time, in either order.
    assert sorted(each["value"] for each in study.user_attrs["baselines"]) == [0.25, 0.5]
    best = Path("runs/offers/best/weights")
    assert float(best.read_text()) == study.best_params["x"] == study.best_value / 2
    assert Path("runs/offers/data/factor").exists()


def test_the_published_model_follows_the_best_trial() -> None:
    for trials in (2, 12):
        study = hpo.optimize(Offers(bound=0.5), trials=trials, executor="inline", progress=False)
        assert float(Path("runs/offers/best/weights").read_text()) == study.best_params["x"]
    assert sorted(path.name for path in Path("runs/offers").iterdir() if "best" in path.name) == [
        "best"
    ]


def test_several_directions_are_not_pruned_and_have_a_front() -> None:
    study = hpo.optimize(
        sample_objectives.two_values,
        trials=4,
        direction=["minimize", "maximize"],
        executor="inline",
        progress=False,
    )
    assert len(study.best_trials) >= 1
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}


def test_a_second_coordinator_is_refused() -> None:
    with own_study("sqlite:///hpo.db", "s"), pytest.raises(OwnedError, match="owned by"):
        hpo.optimize(QUADRATIC, trials=1, study="s", progress=False)


def test_a_lambda_needs_the_inline_executor() -> None:
    with pytest.raises(InputError, match=r"executor=\"inline\""):
        hpo.optimize(lambda trial: 0.0, trials=1, study="s", progress=False)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trials": 0}, InputError, "trials: .*greater than 0"),
        ({"sampler": "guess"}, InputError, "guess.*tpe, random, qmc, nsgaii"),
        ({"pruner": "axe"}, InputError, "axe.*none, median"),
        ({"executor": "cloud"}, InputError, "local"),
        ({"storage": "mysql://host/db"}, StorageError, "mysql"),
        ({"storage": "sqlite:///no/such/directory/hpo.db"}, StorageError, "no/such/directory"),
        ({"timeout": "later"}, InputError, "timeout"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        hpo.optimize(QUADRATIC, **{"study": "s", "progress": False, **arguments})
    assert list(Path().iterdir()) == []


def test_an_objective_that_refuses_its_data_leaves_nothing_behind() -> None:
    class Picky(Offers):
        def prepare(self, directory: Path, seed: int) -> Any:
            (directory / "data").mkdir(parents=True)
            raise ValueError("too few pairs")

    with pytest.raises(InputError, match="too few pairs"):
        hpo.optimize(Picky(bound=1.0), trials=1, executor="inline", progress=False)
    assert [path for path in Path().iterdir() if not path.name.endswith(".lock")] == []


def test_a_study_is_not_mixed_with_another_objective_or_other_settings() -> None:
    def go(objective: Any, **more: Any) -> None:
        hpo.optimize(objective, trials=1, study="s", executor="inline", progress=False, **more)

    go(Offers(bound=0.5))
    with pytest.raises(InputError, match=r"bound was 0.5, now 0.75.*--study NEW"):
        go(Offers(bound=0.75))
    with pytest.raises(InputError, match=r"made with --direction maximize, not minimize"):
        go(QUADRATIC)
    with pytest.raises(InputError, match=r"made with the objective .*Offers, not .*quadratic"):
        go(QUADRATIC, direction="maximize")
    assert len(seen_by_optuna("s")) == 1


def test_a_resumed_study_keeps_its_seed_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        hpo.optimize(QUADRATIC, trials=1, study="s", executor="inline", seed=seed)
    assert "the study keeps its seed 1 (--seed 2 is for new ones)" in capsys.readouterr().out


def test_the_summary_comes_even_when_bugs_stop_the_study(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(StudyStoppedError):
        hpo.optimize(sample_objectives.prints_and_raises, executor="inline", study="s")
    out = capsys.readouterr().out
    assert "0 of 64 trials · 0 complete · 0 pruned · 3 failed" in out
    assert "none yet" in out


def test_a_run_outside_the_main_thread_works() -> None:
    found: list[int] = []

    def work() -> None:
        settings = check({"trials": 2, "executor": "inline", "study": "s"})
        outcome = run_study(sample_objectives.quadratic, None, settings)
        found.append(outcome.status.finished)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [2]


def test_sqlite_is_in_wal_mode_and_readable_by_anybody() -> None:
    hpo.optimize(QUADRATIC, trials=2, study="s", executor="inline", progress=False)
    with sqlite3.connect("hpo.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("select count(*) from trials").fetchone() == (2,)


def test_a_resumed_study_prepares_its_data_with_its_own_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in (1, 2):
        hpo.optimize(Offers(bound=0.5), trials=1, executor="inline", seed=seed)
    assert capsys.readouterr().out.count("prepared with seed 1") == 2
