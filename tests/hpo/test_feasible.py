"""Requirements of a whole study: which trials may win it, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from hpo.errors import InputError, StudyStoppedError
from hpo.publishing import BEST
from tests.hpo.test_stopping import Values, go, lines_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hpo.coordinator.TICK_SECONDS", 0.01)
    return tmp_path


def weights() -> str:
    return (Path("runs/values") / BEST / "weights").read_text()


def hpo_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_best_is_the_best_feasible_everywhere() -> None:
    objective = Values(0.9, 0.5, 0.7, 0.8, recall=(0.1, 0.6, 0.5, 0.4))
    outcome = go(objective, trials=4, require=["recall>=0.5"], keep=2)
    assert outcome.status.best == (0.7, 2)
    assert outcome.status.infeasible == 2
    assert outcome.study.best_trial.number == 2
    assert outcome.study.trials[0].constraints == {"recall>=0.5": pytest.approx(0.4)}
    assert weights() == "2"
    assert {path.name for path in Path("runs/values/trials").iterdir()} == {"1", "2"}
    best = json.loads(hpo_command("best", "--json").stdout)
    assert (best["number"], best["feasible"]) == (2, True)
    lines = Path("runs/values/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    texts = [each["text"] for each in events if each["kind"] == "complete"]
    assert ["infeasible" in text for text in texts] == [True, False, False, True]
    assert ["best so far" in text for text in texts] == [False, True, True, False]


def test_without_a_feasible_trial_there_is_no_best() -> None:
    lines = lines_of(Values(0.9, 0.8, recall=(0.1, 0.4)), trials=2, require=["recall>=0.5"])
    assert "best none: no completed trial meets the requirements" in lines
    assert "rules 0 of 2 complete trials meet recall>=0.5" in lines
    assert not (Path("runs/values") / BEST).exists()
    asked = hpo_command("best")
    assert asked.returncode == 2
    assert "Trial 1 comes nearest: recall>=0.5 is missed by 0.1" in asked.stderr


def test_a_feasible_trial_takes_the_place_of_better_infeasible_ones() -> None:
    objective = Values(0.9, 0.8, 0.1, recall=(0.1, 0.1, 0.9))
    go(objective, trials=3, require=["recall>=0.5"], keep=1)
    assert {path.name for path in Path("runs/values/trials").iterdir()} == {"2"}
    assert weights() == "2"


@pytest.mark.parametrize(
    ("objective", "rule", "message"),
    [
        (Values(0.5, 0.6), "recall>=0.5", "it has no metric 'recall'; it has 'value'"),
        (Values(0.5, recall=(0.5,)), "recal>=0.5", "no metric 'recal'; it has 'value', 'recall'"),
    ],
)
def test_a_metric_that_the_trials_lack_stops_the_study_after_the_first(
    objective: Values, rule: str, message: str
) -> None:
    with pytest.raises(StudyStoppedError, match=re.escape(message)) as caught:
        go(objective, require=[rule])
    assert "trial 0" in str(caught.value)
    (trial,) = optuna.load_study(study_name="values", storage="sqlite:///hpo.db").trials
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["attempts"][-1]["cause"] == "bad-input"


def test_the_same_command_without_the_mistake_goes_on() -> None:
    with pytest.raises(StudyStoppedError):
        go(Values(0.5, recall=(0.5,)), require=["recal>=0.5"])
    outcome = go(Values(0.5, 0.6, recall=(0.5, 0.5)), require=["recall>=0.5"], trials=1)
    assert [trial.state.name for trial in outcome.study.trials] == ["FAIL", "COMPLETE"]


def test_requirements_change_until_a_trial_was_judged_by_them() -> None:
    with pytest.raises(StudyStoppedError):
        go(Values(*[RuntimeError("broken")] * 3, recall=()), require=["recall>=0.5"])
    outcome = go(Values(recall=(0.9,) * 9), require=["recall>=0.7"], trials=1)
    assert outcome.study.trials[-1].constraints == {"recall>=0.7": pytest.approx(-0.2)}
    for changed in ([], ["recall>=0.5"], ["recall>=0.7", "recall<=0.8"]):
        with pytest.raises(InputError, match=r"requires recall>=0\.7, not .*--from values"):
            go(Values(), require=changed)
    assert go(Values(recall=(0.9,) * 9), require=["recall >= 0.70"], trials=2).reason == ""


def test_an_objective_that_says_its_metrics_is_asked_before_anything_starts(here: Path) -> None:
    objective = Values()
    objective.metrics = ("recall", "f1")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"recal>=0\.5: its trials have no metric 'recal'; .*f1"):
        go(objective, require=["recal>=0.5"])
    assert list(here.iterdir()) == []
    assert objective.calls == []
