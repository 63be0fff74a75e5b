"""One training run with no search: a trial comes out again, and what is given is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import InputError, StudyStoppedError
from hpo.training_params import Wanted, read_params
from hpo.training_run import train
from objectives.pairs import read_jsonl, write_jsonl
from tests.hpo.tiny_study import TinyStudy, tiny_study
from tests.objectives.conftest import make_pairs, pairs_file, tiny_model
from tests.objectives.test_finetune import plain_score

__all__ = ["pairs_file", "tiny_model", "tiny_study"]  # fixtures, which pytest finds here

pytestmark = pytest.mark.slow

WORKERS = 2
"""Workers that share this machine: one of them trains."""


def trained(study: TinyStudy | None, out: Path, params: str | Path, **wanted: Any) -> list[str]:
    """Train a model; return what was said."""
    said: list[str] = []
    found = study.found() if study is not None else None
    train(found, Wanted(str(params), **wanted), out, WORKERS, said.append)
    return said


def facts(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "hpo.json").read_text())
    return found


def params_file(directory: Path, params: dict[str, Any]) -> Path:
    path = directory / "params.json"
    path.write_text(json.dumps(params))
    return path


def test_a_trial_that_kept_no_weights_comes_out_again(
    tiny_study: TinyStudy, tmp_path: Path
) -> None:
    study = tiny_study.found().study
    other = study.trials[1 - study.best_trial.number]
    out = tmp_path / "model"
    said = trained(tiny_study, out, str(other.number))
    assert facts(out)["metrics"]["roc_auc"] == pytest.approx(other.value, abs=5e-5)
    score, _ = plain_score(str(out), read_jsonl(tiny_study.validation))
    assert score == pytest.approx(other.value, abs=5e-5)
    assert f", as trial {other.number} of study tiny" in said[1]
    assert any(line.startswith("      step  50") for line in said)
    assert f"trial {other.number} {other.value:.4f})" in said[-4]
    card = (out / "README.md").read_text()
    assert f"| parameters of | trial {other.number} of study tiny |" in card
    assert "| ROC AUC |" in card
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_ctrl_c_keeps_what_is_there_and_the_same_command_goes_on(
    tiny_study: TinyStudy, tmp_path: Path
) -> None:
    out, said = tmp_path / "model", []

    def interrupt(line: str) -> None:
        said.append(line)
        if "step  50" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_study.found(), Wanted("best"), out, WORKERS, interrupt)
    assert said[-1].startswith("kept ")
    assert not out.exists()
    # It lists the processes of the first command, which would not be this one's.
    (tmp_path / "model.training" / "processes.json").unlink()
    assert "goes on with what is in" in "\n".join(trained(tiny_study, out, "best"))
    best = tiny_study.found().study.best_trial
    assert facts(out)["metrics"]["roc_auc"] == pytest.approx(best.value, abs=5e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_data_and_a_file_of_parameters_need_no_study(
    tiny_study: TinyStudy, tiny_model: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "others.jsonl"
    write_jsonl(make_pairs(200, seed=5), pairs)
    best = tiny_study.found().study.best_trial
    # As hpo best --json prints it; the base model is named on its own.
    params = {**best.params, "dimension": 16, "head_epochs": 3}
    del params["base_model"]
    path = params_file(tmp_path, {"number": 3, "params": params})
    out = tmp_path / "model"
    said = trained(None, out, path, data=str(pairs), model=str(tiny_model), seed=3)
    assert "data  200 pairs" in "\n".join(said)
    assert facts(out)["params"]["dimension"] == 16
    assert facts(out)["seed"] == 3
    card = (out / "README.md").read_text()
    assert "fine-tuned on others.jsonl" in card
    assert "| measure | this model | untuned base | difference |" in card
    before = (out / "model.safetensors").read_bytes(), facts(out)["metrics"]["roc_auc"]
    trained(None, out, path, data=str(pairs), model=str(tiny_model), seed=3)
    again = (out / "model.safetensors").read_bytes(), facts(out)["metrics"]["roc_auc"]
    assert again == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": None}, "loss cannot be None; it takes one of OnlineContrastive"),
        ({"head_num_samples": 100_000}, "head_num_samples asks for up to 100,000 pairs"),
        ({"base_model": "./nowhere"}, "there is no model './nowhere'"),
        ({"unknown": 1}, "there is no parameter 'unknown'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(
    tiny_study: TinyStudy, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    params = {**tiny_study.found().study.best_trial.params, **changes}
    path = params_file(tmp_path, params)
    with pytest.raises(InputError) as refused:
        trained(tiny_study, tmp_path / "model", path)
    assert words in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == ["params.json"]


def test_a_missing_parameter_is_named(tiny_study: TinyStudy, tmp_path: Path) -> None:
    params = dict(tiny_study.found().study.best_trial.params)
    del params["warmup"]
    path = params_file(tmp_path, params)
    with pytest.raises(InputError, match=r"missing: warmup \(numbers from 0 to 1\)"):
        trained(tiny_study, tmp_path / "model", path)


def test_a_file_is_json_or_toml_of_parameters_by_name(tmp_path: Path) -> None:
    toml = tmp_path / "params.toml"
    toml.write_text('loss = "CoSENT"\nwarmup = 0.1\n')
    assert read_params(toml) == {"loss": "CoSENT", "warmup": 0.1}
    for name, text, words in (
        ("bad.json", "{", "is neither valid JSON nor"),
        ("bad.toml", "=", "is neither valid JSON nor"),
        ("list.json", "[1]", "expected an object"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words):
            read_params(tmp_path / name)
    with pytest.raises(InputError, match="there is no such file"):
        read_params(tmp_path / "none.json")
    with pytest.raises(InputError, match="Is a directory"):
        read_params(tmp_path)


def test_a_worker_that_fails_says_why(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(
        "def objective(trial):\n    raise RuntimeError(str(trial.params['x']))\n"
    )
    from hpo.record import StudyRecord
    from tests.hpo.volume_support import fill_study

    study = fill_study(f"sqlite:///{tmp_path}/hpo.db", 0.5, study="broken")
    record = StudyRecord(
        objective="broken:objective", options=None, seed=0, directory=str(tmp_path)
    )
    study.set_user_attr("hpo", record.model_dump(mode="json"))
    mine = TinyStudy(f"sqlite:///{tmp_path}/hpo.db", tmp_path)
    from hpo.queries import find_study

    with pytest.raises(StudyStoppedError, match=r"(?s)training failed \(bug\).*RuntimeError: 0.5"):
        train(find_study("broken", mine.url), Wanted("best"), tmp_path / "m", 1, print)
    with pytest.raises(InputError, match="takes no data"):
        train(find_study("broken", mine.url), Wanted("best", data="x"), tmp_path / "m", 1, print)
