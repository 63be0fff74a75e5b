"""Notes as optuna-dashboard reads them, and as people's Markdown renderer does."""

from __future__ import annotations

import collections
import math
import re
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo import notes as module
from hpo.importing import IMPORTED
from hpo.note_text import STUDY_LIMIT, TRIAL_LIMIT, escape, study_note, trial_note
from hpo.notes import BELOW, Notes
from hpo.plan import Plan
from hpo.protocol import ObjectiveSpec
from hpo.requirements import parse_requirements
from hpo.status import Kind, Moment, RunningTrial, Status
from hpo.tally import Tally
from storage import open_storage

ATTEMPT = {
    "id": "0.1.x",
    "start": "2026-01-01T00:00:00.000+00:00",
    "end": "2026-01-01T00:00:43.000+00:00",
    "cause": "ok",
    "machine": "lab_3",
    "device": "cuda",
}
LOST = {**ATTEMPT, "cause": "lost", "message": "killed by signal 9"}


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RDBStorage:
    if request.param == "sqlite":
        return open_storage(f"sqlite:///{tmp_path}/hpo.db")
    return open_storage(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite(tmp_path: Path) -> RDBStorage:
    return open_storage(f"sqlite:///{tmp_path}/hpo.db")


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "study": "s",
        "trials": 64,
        "spec": ObjectiveSpec(reference="m:f"),
        "directory": Path("runs/s"),
        "seed": 0,
    }
    return Plan(**{**fields, **changes})


class Run:
    """A study whose trials end when the test says so, watched by notes with a clock of its own."""

    def __init__(self, storage: RDBStorage, **changes: Any) -> None:
        self.storage = storage
        self.study = optuna.create_study(
            study_name="s", storage=storage, direction="maximize", load_if_exists=True
        )
        self.plan = make_plan(**changes)
        self.now = 1000.0
        self.status = Status("s", "score", True, trials=64)
        self.tally = Tally(self.status, self.plan, single=True)
        self.tally.recount(self.study.get_trials())
        self.notes = self.restart()
        self.writes: list[str] = []
        write = storage.set_study_system_attr

        def counted(study_id: int, key: str, value: Any) -> None:
            write(study_id, key, value)
            self.writes.append(key)

        storage.set_study_system_attr = counted  # type: ignore[method-assign]

    def restart(self) -> Notes:
        self.notes = Notes(self.study, self.storage, self.plan, clock=lambda: self.now)
        return self.notes

    def add(self, value: float = 0.5, recall: float = 1.0, state: str = "complete") -> FrozenTrial:
        failed = state == "failed"
        self.study.add_trial(
            optuna.create_trial(
                state={
                    "complete": TrialState.COMPLETE,
                    "pruned": TrialState.PRUNED,
                    "failed": TrialState.FAIL,
                }[state],
                value=None if failed else value,
                params={"base_model": "a|b_c", "x": 0.25},
                distributions={
                    "base_model": CategoricalDistribution(["a|b_c"]),
                    "x": FloatDistribution(0, 1),
                },
                user_attrs={"metrics": {"recall": recall}, "attempts": [LOST, ATTEMPT]},
                intermediate_values={1: 0.25, 2: value},
                constraints={
                    str(each): each.violation(recall)
                    for each in self.plan.requirements
                    if state == "complete"
                },
            )
        )
        trial = self.study.get_trials()[-1]
        self.tally.count(trial)
        return trial

    def end_trial(self, value: float = 0.5, recall: float = 1.0, state: Kind = "complete") -> int:
        trial = self.add(value, recall, state)
        self.notes.on(Moment(state, "it ended", trial=trial.number), self.status)
        self.notes.tick(self.status)
        return trial.number

    def note(self, number: int | None = None) -> str:
        """Return a note as optuna-dashboard shows it."""
        if number is None:
            return optuna_dashboard.get_note(self.study)
        trial_id = self.study.trials[number]._trial_id
        return optuna_dashboard.get_note(optuna.trial.Trial(self.study, trial_id))


def test_the_dashboard_shows_where_the_study_stands(storage: RDBStorage) -> None:
    run = Run(
        storage,
        requirements=parse_requirements(["recall>=0.5"]),
        timeout=7200.0,
        target=0.99,
        patience=20,
    )
    run.status.baseline = (0.7, "Mini_LM")
    run.status.running["1"] = RunningTrial(9, "")
    for value, recall, state in (
        (0.95, 0.1, "complete"),
        (0.9, 0.6, "complete"),
        (0.2, 0.9, "pruned"),
        (0.0, 0.9, "failed"),
    ):
        run.end_trial(value, recall, state)  # type: ignore[arg-type]
    run.notes.on(Moment("end", "the time is up"), run.status)
    run.notes.tick(run.status)
    run.notes.close()
    note = run.note()
    assert note.startswith(
        "**Best feasible trial: 1** · score **0.9000** (Mini\\_LM untuned 0.7000, +0.2000)\n\n"
    )
    assert "| base\\_model | a\\|b\\_c |\n| x | 0.25 |" in note
    assert "| recall | 0.6000 | \\>= 0.5 met |" in note
    assert (
        "**Budget:** 3 of 64 trials finished (2 complete, 1 pruned) · 1 failed · 1 running" in note
    )
    assert "2 h 0 min of a run, a value of 0.99, 20 trials without a better one (1" in note
    assert "**How attempts ended:** lost 4 · ok 4" in note
    assert "1 of the completed trials miss a requirement (recall\\>=0.5)" in note
    assert "the best feasible one is trial 1." in note
    assert "**Ended:** the time is up" in note
    assert re.search(r"As of 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", note)
    assert run.study.best_trial.number == 1


def test_each_finished_trial_has_a_note(storage: RDBStorage) -> None:
    run = Run(storage, requirements=parse_requirements(["recall>=0.5"]))
    for state, recall in (("complete", 0.1), ("complete", 0.75), ("pruned", 0.1), ("failed", 0.1)):
        run.end_trial(0.9, recall, state)  # type: ignore[arg-type]
    run.notes.close()
    assert run.note(0).startswith(
        "**complete** · score **0.9000** · **infeasible**: not recall\\>=0.5\n\n"
        "| metric | value |\n| --- | --- |\n| recall | 0.1000 |\n\n"
        "curve ▁█ 1: 0.2500 · 2: 0.9000\n\n"
        "attempt 1: lost, lab\\_3 (cuda), 43 s: killed by signal 9 · attempt 2: ok, lab"
    )
    assert run.note(1).startswith("**complete** · score **0.9000** · feasible\n")
    assert run.note(2).startswith("**pruned** · score **0.9000**\n")
    assert run.note(3).startswith("**failed**\n")


def test_changes_are_written_together_and_the_same_is_not_written_again(
    sqlite: RDBStorage,
) -> None:
    run = Run(sqlite)
    run.notes.on(Moment("begin", ""), run.status)
    run.notes.tick(run.status)
    assert "No trial has completed yet" in run.note()
    written = len(run.writes)
    for _ in range(5):
        run.now += 1
        run.end_trial()
    assert len(run.writes) == written
    run.now += 6
    run.notes.tick(run.status)
    assert "5 of 64" in run.note()
    # Two for each of the trials, two for the study, and which trials have one.
    assert len(run.writes) == written + 5 * 2 + 2 + 1
    written = len(run.writes)
    for _ in range(3):
        run.now += 60
        run.notes.tick(run.status)
    run.notes.close()
    assert len(run.writes) == written


@pytest.mark.parametrize("fails_at", range(8))
def test_what_the_database_refused_is_written_with_the_next_call(
    sqlite: RDBStorage, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(sqlite)
    numbers = [run.add().number for _ in range(2)]
    write, count = sqlite.set_study_system_attr, 0

    def fails_once(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise optuna.exceptions.StorageInternalError("gone")
        write(*arguments)

    monkeypatch.setattr(sqlite, "set_study_system_attr", fails_once)
    moment = Moment("complete", "", trial=numbers[-1])
    if fails_at:
        run.notes.on(moment, run.status)
        with pytest.raises(optuna.exceptions.StorageInternalError):
            run.notes.tick(run.status)
    run.notes.on(moment, run.status)
    run.notes.tick(run.status)
    for number in numbers:
        assert run.note(number).startswith("**complete**")
    assert "**How attempts ended:** lost 2 · ok 2" in run.note()
    assert sqlite.get_study_system_attrs(1)["hpo:noted"] == [[0, 1]]


def test_nothing_is_written_while_the_database_is_away(sqlite: RDBStorage) -> None:
    run = Run(sqlite)
    run.status.away = True
    run.end_trial()
    run.notes.close()
    assert run.writes == []
    run.status.away = False
    run.notes.tick(run.status)
    assert run.note(0).startswith("**complete**")


def test_a_restart_writes_what_is_missing_and_nothing_else(storage: RDBStorage) -> None:
    run = Run(storage)
    run.end_trial()
    run.notes.close()
    missing = run.add(0.75).number  # its coordinator was killed before it wrote the note
    written = len(run.writes)
    run.restart().tick(run.status)
    assert run.note(missing).startswith("**complete** · score **0.7500**")
    assert "**How attempts ended:** lost 2 · ok 2" in run.note()
    assert [key for key in run.writes[written:] if key.startswith("dashboard:1:")] == []


def test_what_people_write_stays(sqlite: RDBStorage) -> None:
    run = Run(sqlite)
    optuna_dashboard.save_note(run.study, "My *own* thoughts.")
    running = run.study.ask()
    optuna_dashboard.save_note(running, "Watch this one.")
    run.tally.count(run.study.tell(running, 0.5))
    run.notes.on(Moment("complete", "", trial=0), run.status)
    run.notes.tick(run.status)
    assert run.note(0) == "Watch this one."
    assert run.note().endswith(f"{BELOW}\n\nMy *own* thoughts.")
    optuna_dashboard.save_note(run.study, run.note() + " And more. " + "x" * 5000)
    for start in (run.notes, run.restart()):
        run.now += 60
        run.end_trial()
        start.close()
        assert f"{BELOW}\n\nMy *own* thoughts. And more. xxx" in run.note()
        assert run.note().count("My *own*") == run.note().count(BELOW) == 1
    optuna_dashboard.save_note(run.study, "")
    run.now += 60
    run.end_trial()
    assert run.note().endswith(BELOW)


def test_a_long_study_has_notes_for_its_first_trials_and_its_best(
    sqlite: RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOTED_TRIALS", 3)
    run = Run(sqlite)
    for value in (0.5, 0.6, 0.1, 0.2, 0.9, 0.3):
        run.now += 60
        run.end_trial(value)
    assert [number for number in range(6) if run.note(number)] == [0, 1, 2, 4]
    assert "Only 4 trials have a note" in run.note()
    assert "lost 6 · ok 6" in run.note()


def test_many_missing_notes_are_written_bit_by_bit(sqlite: RDBStorage) -> None:
    run = Run(sqlite)
    for _ in range(8):
        run.add()
    ticking = iter(range(10**6))
    run.notes = Notes(run.study, sqlite, run.plan, clock=lambda: next(ticking) / 16)
    run.notes.on(Moment("begin", ""), run.status)
    run.notes.tick(run.status)
    before = sum(bool(run.note(number)) for number in range(8))
    assert 0 < before < 8
    run.notes.close()
    assert all(run.note(number) for number in range(8))


def awkward(text: str) -> FrozenTrial:
    long = text * 40
    return optuna.create_trial(
        value=1e300,
        params={f"{long}{i}": long for i in range(40)},
        distributions={f"{long}{i}": CategoricalDistribution([long]) for i in range(40)},
        user_attrs={
            "metrics": {f"{long}{i}": long for i in range(40)} | {"nan": math.nan},
            "attempts": [{**LOST, "machine": long, "device": long, "message": long}] * 9,
            "model": f"/{long}",
            IMPORTED: {"study": long, "number": 3},
        },
        intermediate_values={i: math.inf if i % 3 else -1e308 * i / 999 for i in range(999)},
        constraints={f"{long}{i}": 1.0 for i in range(9)},
    )


@pytest.mark.parametrize("text", ["a|b", "_*_", "`x`", "<b>", "line\nline", "[a](b)", "\\", "é~~"])
def test_notes_stay_short_whatever_there_is_to_say(text: str) -> None:
    trial = awkward(text)
    note = trial_note(trial, text * 40, ())
    assert len(note) <= TRIAL_LIMIT
    status = Status("s", text * 40, True, trials=64, complete=1, infeasible=1)
    status.best, status.baseline = (0.5, 3), (0.5, text * 40)
    plan = make_plan(requirements=parse_requirements(f"{'m' * 200}{i}>=0.5" for i in range(20)))
    finals = [text * 50] * 9
    note = study_note(status, plan, trial, module.Counter({text * 9: 3}), text * 400, finals)
    assert len(note) <= STUDY_LIMIT
    assert "Budget:" in note
    for row in (line for line in note.splitlines() if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) in (3, 4)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("a|b_c*d", 20, "a\\|b\\_c\\*d"),
        ("two\nlines\r\n", 20, "two lines"),
        ("too long by far", 8, "too lon…"),
        ("<script>&amp;", 20, "\\<script\\>\\&amp;"),
        (3, 20, "3"),
    ],
)
def test_markdown_in_values_is_text(text: object, most: int, expected: str) -> None:
    assert escape(text, most) == expected


def test_curves_show_what_is_no_number() -> None:
    trial = optuna.create_trial(
        value=0.5, intermediate_values={1: math.nan, 2: 0.1, 3: math.inf, 4: 0.3}
    )
    assert "curve ×▁×█ 1: nan · 2: 0.1000 · 3: inf · 4: 0.3000" in trial_note(trial, None, ())


def test_a_limit_of_money_is_one_of_those_that_end_a_study() -> None:
    status = Status("s", "score", True, trials=64, spent=1.42)
    note = study_note(status, make_plan(max_cost=20.0), None, collections.Counter(), "")
    assert "$20 ($1.42 so far)" in note
