"""Every way in which an objective can end becomes one event with the right cause."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.current import CurrentAttempt, current_attempt
from hpo.protocol import Cause, Done, Failed, Started
from hpo.worker import log_tail, run_attempt
from tests.hpo.support import Recorder, make_task


def run(directory: Path, objective: Callable[[Any], Any], **changes: Any) -> Done | Failed:
    recorder = Recorder()
    run_attempt(make_task(directory, **changes), recorder, "cpu", objective)
    first, *_, last = recorder.sent
    assert isinstance(first, Started)
    assert first.device == "cpu"
    assert [event.sequence for event in recorder.sent] == list(range(len(recorder.sent)))
    assert isinstance(last, Done | Failed)
    return last


def raising(error: BaseException) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        raise error

    return objective


def test_a_value_is_done(tmp_path: Path) -> None:
    last = run(tmp_path, lambda trial: 0.5)
    assert isinstance(last, Done)
    assert (last.state, last.values) == ("complete", (0.5,))


@pytest.mark.parametrize("value", [1, True, math.inf, -math.inf])
def test_what_optuna_takes_for_a_number_is_one(tmp_path: Path, value: float) -> None:
    last = run(tmp_path, lambda trial: value)
    assert isinstance(last, Done)
    assert last.values == (float(value),)


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    last = run(tmp_path, lambda trial: numpy.float32(0.5))
    assert isinstance(last, Done)
    assert last.values == (0.5,)


def test_several_values_for_several_directions(tmp_path: Path) -> None:
    directions = ("minimize", "maximize")
    last = run(tmp_path, lambda trial: [1, 2], directions=directions)
    assert isinstance(last, Done)
    assert last.values == (1.0, 2.0)
    failed = run(tmp_path, lambda trial: 1.0, directions=directions)
    assert isinstance(failed, Failed)
    assert "1 values for 2 direction(s)" in failed.message


def test_pruning_is_done_too(tmp_path: Path) -> None:
    last = run(tmp_path, raising(optuna.TrialPruned()))
    assert isinstance(last, Done)
    assert (last.state, last.values) == ("pruned", ())


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize(
    ("objective", "cause", "message"),
    [
        (raising(RuntimeError("broken")), Cause.BUG, "RuntimeError: broken"),
        (raising(SystemExit(3)), Cause.BUG, "SystemExit: 3"),
        (raising(KeyboardInterrupt()), Cause.BUG, "KeyboardInterrupt"),
        (raising(MemoryError()), Cause.OUT_OF_MEMORY, "MemoryError"),
        (raising(OutOfMemoryError("CUDA")), Cause.OUT_OF_MEMORY, "OutOfMemoryError: CUDA"),
        (raising(FloatingPointError("loss is nan")), Cause.DIVERGED, "loss is nan"),
        (lambda trial: math.nan, Cause.DIVERGED, "returned nan"),
        (lambda trial: None, Cause.BUG, "returned None; it must return a float"),
        (lambda trial: "0.5", Cause.BUG, "returned '0.5'; it must return a float"),
        (lambda trial: [1, 2], Cause.BUG, "2 values for 1 direction(s)"),
        (lambda trial: {"auc": 1}, Cause.BUG, "must return a float"),
    ],
)
def test_every_failure_has_its_cause(
    tmp_path: Path, objective: Callable[[Any], Any], cause: Cause, message: str
) -> None:
    last = run(tmp_path, objective)
    assert isinstance(last, Failed)
    assert last.cause is cause
    assert message in last.message


def test_the_traceback_begins_in_the_objective(tmp_path: Path) -> None:
    last = run(tmp_path, raising(RuntimeError("broken")))
    assert isinstance(last, Failed)
    assert "in objective" in last.traceback
    assert "/worker.py" not in last.traceback


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
        ("tests.hpo.sample_objectives:nothing", "has no 'nothing'; it has quadratic, pruning"),
        ("tests.hpo.sample_objectives", "expected package.module:function"),
        ("math:pi", "is a float, which cannot be called"),
    ],
)
def test_an_objective_that_cannot_be_had_is_bad_input(
    tmp_path: Path, reference: str, message: str
) -> None:
    recorder = Recorder()
    run_attempt(make_task(tmp_path, reference), recorder, None)
    last = recorder.sent[-1]
    assert isinstance(last, Failed)
    assert last.cause is Cause.BAD_INPUT
    assert message in last.message


def test_an_import_that_fails_names_the_line(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_import_here.py").write_text("x = 1\ny = x / 0\n")
    (tmp_path / "needs_more_here.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    for reference, message in [
        ("broken_import_here:f", r"ZeroDivisionError.*broken_import_here.py, line 2"),
        ("needs_more_here:f", r"needs the module 'not_installed_here'"),
    ]:
        recorder = Recorder()
        run_attempt(make_task(tmp_path, reference), recorder, None)
        last = recorder.sent[-1]
        assert isinstance(last, Failed)
        assert re.search(message, last.message), last.message


def test_the_objective_knows_its_attempt(tmp_path: Path) -> None:
    seen: list[CurrentAttempt] = []

    def objective(trial: Any) -> float:
        seen.append(current_attempt())
        assert seen[-1].directory.is_dir()
        return 0.0

    run(tmp_path, objective, number=4, seed=9, data="/data")
    assert seen == [
        CurrentAttempt(
            number=4,
            seed=9,
            directory=tmp_path / "trial",
            resume=False,
            data=Path("/data"),
            device="cpu",
        )
    ]
    with pytest.raises(RuntimeError, match="outside an attempt"):
        current_attempt()


def test_resume_needs_something_to_resume_from(tmp_path: Path) -> None:
    resumed: list[bool] = []

    def objective(trial: Any) -> float:
        resumed.append(current_attempt().resume)
        (current_attempt().directory / "checkpoint").touch()
        return 0.0

    run(tmp_path, objective, resume=True)
    run(tmp_path, objective, resume=True)
    assert resumed == [False, True]


def test_the_seed_makes_plain_random_code_repeatable(tmp_path: Path) -> None:
    first, second = (run(tmp_path, lambda trial: random.random(), seed=5) for _ in range(2))
    assert first == second


def test_the_log_tail_is_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == ""
    log.write_text("".join(f"line {n}\n" for n in range(1000)))
    assert log_tail(log, lines=2) == "line 998\nline 999"
