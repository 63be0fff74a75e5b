"""``hpo evaluate``: the test split is opened by hand, and that is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from typer.testing import CliRunner, Result

import hpo
from hpo.baselines import BASELINES
from hpo.cli import app
from hpo.evaluation import EVALUATION, EVALUATION_ATTEMPTS, OPENINGS
from storage import own_study
from tests.api_loopback import ApiServer
from tests.hpo.modal_objectives import Sealed

QUADRATIC = "tests.hpo.sample_objectives:quadratic"


def run(directory: Path, trials: int, **more: Any) -> optuna.Study:
    return hpo.optimize(
        Sealed(),
        trials=trials,
        study="sealed",
        storage=f"sqlite:///{directory}/hpo.db",
        executor="inline",
        out=directory / "runs",
        progress=False,
        **more,
    )


def evaluate(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--storage", f"sqlite:///{directory}/hpo.db"])


def test_every_opening_is_counted(tmp_path: Path) -> None:
    study = run(tmp_path, 3, finalists=1, seeds=1)
    assert [each["by"] for each in study.user_attrs[OPENINGS]] == ["run"]
    note = optuna_dashboard.get_note(study)
    assert f"final trial {study.user_attrs['winner']['trial']} wins" in note
    assert "test ROC AUC" in " ".join(note.split())
    result = evaluate(tmp_path)
    assert result.exit_code == 0, result.output
    assert "opened once before, is opened for trial" in result.stdout
    assert "the test split was opened twice" in result.stdout
    assert f"report {tmp_path}/runs/sealed/report.html" in result.stdout
    attrs = optuna.load_study(
        study_name="sealed", storage=f"sqlite:///{tmp_path}/hpo.db"
    ).user_attrs
    assert [each["by"] for each in attrs[OPENINGS]] == ["run", "evaluate"]
    assert attrs[EVALUATION]["pairs"] == 200_000
    assert [one["cause"] for each in attrs[EVALUATION_ATTEMPTS] for one in each["attempts"]] == [
        "ok",
        "ok",
    ]
    run(tmp_path, 3, finalists=1, seeds=1)  # the same command has nothing left to do
    attrs = study.user_attrs
    assert len(attrs[OPENINGS]) == 2


def test_a_study_without_finals_can_be_evaluated_too(tmp_path: Path) -> None:
    study = run(tmp_path, 2, finalists=0)
    assert OPENINGS not in study.user_attrs
    result = evaluate(tmp_path)
    assert result.exit_code == 0, result.output
    assert "never opened before" in result.stdout
    best = study.best_trial.number
    (opening,) = study.user_attrs[OPENINGS]
    assert (opening["trial"], opening["run"]) == (best, None)


def test_a_winner_that_came_later_is_not_tested_unasked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hpo.db"
    study = optuna.create_study(storage=url, study_name="sealed", direction="maximize")
    for trials, size in ((1, 2), (2, 5)):
        study.enqueue_trial({"size": size})
        run(tmp_path, trials, finalists=1, seeds=1)
    assert study.user_attrs["winner"]["trial"] == 1
    assert len(study.user_attrs[OPENINGS]) == 1
    said = CliRunner().invoke(app, ["best", "--storage", url]).stdout
    assert "for trial 0 when that had won: hpo evaluate --study sealed opens it again" in said


def test_what_cannot_be_evaluated_is_refused_and_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="needs the extra 'apis'")
    study = run(tmp_path, 2, finalists=0)

    def refusal() -> str:
        result = evaluate(tmp_path)
        assert result.exit_code == 2, result.output
        assert OPENINGS not in study.user_attrs
        return result.stderr

    with own_study(f"sqlite:///{tmp_path}/hpo.db", "sealed"):
        assert "is run by" in refusal()
    (tmp_path / "runs" / "sealed" / "test.jsonl").write_text(
        '{"first": "one text", "second": "another", "label": 0}\n'
    )
    record = {"params": {"base_model": "openai:text-embedding-3-small"}, "value": 0.5}
    study.set_user_attr(BASELINES, [{**record, "metrics": {}, "source": "openai"}])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "set the environment variable OPENAI_API_KEY" in refusal()
    with ApiServer() as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        assert "agree to it with --yes" in refusal()
    study.set_user_attr(BASELINES, [])
    (tmp_path / "runs" / "sealed" / "test.jsonl").unlink()
    assert "is not on this machine (any more)" in refusal()


def test_a_study_of_a_plain_objective_has_nothing_to_evaluate(tmp_path: Path) -> None:
    hpo.optimize(
        QUADRATIC,
        trials=1,
        storage=f"sqlite:///{tmp_path}/hpo.db",
        executor="inline",
        out=tmp_path / "runs",
        progress=False,
    )
    result = evaluate(tmp_path)
    assert result.exit_code == 2
    assert "which has no evaluate(trial)" in result.stderr
