"""Trials on Modal: the real client and real containers, with a control plane on this machine."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import StudyStoppedError
from hpo.status import Moment, Status
from tests.hpo.modal_support import (
    Modal,
    attempts,
    causes,
    interrupt,
    no_call_twice,
    states,
)
from tests.hpo.support import Watcher
from tests.modal_loopback import Faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def curve_of(x: float) -> dict[int, float]:
    return {step: x * x + step for step in range(3)}


def in_background(action: Any) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_a_run_and_its_records(on_modal: Modal) -> None:
    ran = on_modal.run("quadratic", 6)
    assert states(ran.trials) == {"COMPLETE": 6}
    for trial in ran.trials:
        x = trial.params["x"]
        assert trial.value == x * x
        assert trial.intermediate_values == curve_of(x)
        (attempt,) = attempts(trial)
        assert attempt["cause"] == "ok"
        assert attempt["seconds"] > 0
        assert 0 < attempt["dollars"] < attempt["reserved"]
    no_call_twice(ran.trials, ran.calls)
    assert {call.status for call in ran.calls} == {"done"}
    assert not on_modal.plane.unimplemented


def test_lost_and_repeated_messages_change_nothing(on_modal: Modal) -> None:
    on_modal.plane.faults = Faults(lose_queue_puts=0.25, repeat_queue_gets=0.3, seed=4)
    ran = on_modal.run("asking", 3)
    assert states(ran.trials) == {"COMPLETE": 3}
    for trial in ran.trials:
        kind = trial.params["kind"]
        first, second = trial.params[f"first_{kind}"], trial.params["second"]
        assert trial.value == first + second
        assert trial.intermediate_values == {0: first, 1: second}
    no_call_twice(ran.trials, ran.calls)


def test_objectives_without_manners(on_modal: Modal) -> None:
    ran = on_modal.run("mannered", 4)
    assert states(ran.trials) == {"COMPLETE": 4, "FAIL": 1}
    for trial in ran.trials:
        if trial.number != 3:
            assert trial.value == trial.params["x"]
    assert ran.trials[2].intermediate_values == {step: step / 7 for step in range(200)}
    assert ran.trials[2].user_attrs["much"] == "é" * 32_000
    assert "who" not in ran.trials[1].user_attrs
    assert causes(ran.trials[3]) == ["bug"]
    no_call_twice(ran.trials, ran.calls)


def test_a_preempted_container_goes_on_from_its_checkpoint(on_modal: Modal) -> None:
    # What was said before is not said again, and must not depend on the Queue.
    on_modal.plane.faults = Faults(preempt_after=1.0, lose_queue_puts=0.5, seed=1)
    ran = on_modal.run("patient", 2)
    assert states(ran.trials) == {"COMPLETE": 2}
    assert [call.starts for call in ran.calls] == [2, 2]
    for trial in ran.trials:
        x = trial.params["x"]
        assert trial.value == x
        assert trial.intermediate_values == {step: x + step for step in range(10)}
        assert trial.user_attrs["resumed"] > 0
        assert causes(trial) == ["ok"]


def test_a_container_that_dies_is_another_attempt(on_modal: Modal) -> None:
    ran = on_modal.run("dying", 2)
    assert states(ran.trials) == {"COMPLETE": 2}
    assert causes(ran.trials[0]) == ["lost", "ok"]
    assert "out of memory" in attempts(ran.trials[0])[0]["message"]
    assert attempts(ran.trials[0])[0]["dollars"] > 0
    assert ran.trials[0].value == ran.trials[0].params["x"]
    no_call_twice(ran.trials, ran.calls)


def test_what_hangs_ends_at_its_limit(on_modal: Modal) -> None:
    with pytest.raises(StudyStoppedError, match="it ran longer than 1 s"):
        on_modal.run("hanging", 1, trial_timeout=1.0, retries=0, max_failures=3)
    trials = on_modal.study().trials
    assert states(trials) == {"FAIL": 3}
    assert [causes(trial) for trial in trials] == [["timeout"]] * 3


def test_an_outage_costs_nothing_twice(on_modal: Modal) -> None:
    faults = on_modal.plane.faults

    def outage() -> None:
        on_modal.plane.wait_for(lambda: on_modal.trial_calls(before))
        everything = dict.fromkeys(on_modal.plane.counts, 1.0)
        containers = {name for name in everything if name.startswith(("Container", "Function"))}
        kept = containers - {"FunctionMap", "FunctionGetOutputs", "FunctionCallFromId"}
        faults.rpc_errors = {name: 1.0 for name in everything if name not in kept}
        time.sleep(2)
        faults.rpc_errors = {}

    before = len(on_modal.plane.calls())
    thread = in_background(outage)
    ran = on_modal.run("patient", 3)
    thread.join()
    assert states(ran.trials) == {"COMPLETE": 3}
    for trial in ran.trials:
        assert trial.intermediate_values == {n: trial.params["x"] + n for n in range(10)}
    told = [each for trial in ran.trials for each in attempts(trial)]
    assert len(ran.calls) == sum("call" in each["handle"] for each in told if "handle" in each)


def test_a_coordinator_that_is_killed_pays_for_nothing_twice(on_modal: Modal) -> None:
    before = len(on_modal.plane.calls())
    # Killed after its second call was spawned, and before it wrote that one down.
    first = on_modal.start("patient", 3, killed_after=2)
    on_modal.finish(first, code=-9)
    assert len(on_modal.trial_calls(before)) == 2
    on_modal.plane.wait_for(lambda: on_modal.trial_calls(before)[0].status == "done")
    second = on_modal.start("patient", 3)
    on_modal.finish(second)
    trials, calls = on_modal.study().trials, on_modal.trial_calls(before)
    assert states(trials) == {"COMPLETE": 3}
    for trial in trials:
        assert trial.intermediate_values == {n: trial.params["x"] + n for n in range(10)}
        assert causes(trial) == ["ok"]
    assert [call.starts for call in calls] == [1] * 3


@pytest.mark.parametrize("fault", ["expire_results", "unknown_calls"])
def test_calls_that_modal_has_forgotten_are_new_attempts(on_modal: Modal, fault: str) -> None:
    before = len(on_modal.plane.calls())
    on_modal.finish(on_modal.start("quadratic", 2, killed_after=2), code=-9)
    on_modal.plane.wait_for(
        lambda: [call.status for call in on_modal.trial_calls(before)] == ["done"] * 2
    )

    class Restoring(Watcher):
        """Lets Modal know everything again when the first trial starts."""

        def on(self, moment: Moment, status: Status) -> None:
            super().on(moment, status)
            if moment.kind == "start":
                on_modal.plane.faults = Faults()

    def forget() -> None:
        on_modal.plane.faults = Faults(**{fault: True})

    ran = on_modal.run("quadratic", 2, Restoring(), forget)
    assert states(ran.trials) == {"COMPLETE": 2}
    assert causes(ran.trials[0]) == ["lost", "ok"]
    assert [call.status for call in ran.calls if call.status != "cancelled"] == ["done"] * 2


def test_two_interrupts_cancel_calls_and_keep_trials(on_modal: Modal) -> None:
    before = len(on_modal.plane.calls())
    process = on_modal.start("deaf", 2)
    on_modal.plane.wait_for(
        lambda: [call.status for call in on_modal.trial_calls(before)] == ["running"] * 2
    )
    time.sleep(1.0)
    interrupt(process)
    time.sleep(0.5)
    interrupt(process)
    on_modal.finish(process, code=130, timeout=40)
    assert all(call.status in ("done", "cancelled") for call in on_modal.trial_calls(before))
    trials = on_modal.study().trials
    assert states(trials) == {"RUNNING": 2}
    for trial in trials:
        assert causes(trial) == ["stopped"]
        assert attempts(trial)[0]["dollars"] < attempts(trial)[0]["reserved"]


def test_a_trial_that_was_stopped_goes_on(on_modal: Modal) -> None:
    process = on_modal.start("attentive", 2)
    on_modal.plane.wait_for(lambda: reported(on_modal.directory))
    interrupt(process)
    time.sleep(0.3)  # two signals at once are one
    interrupt(process)
    on_modal.finish(process, code=130, timeout=40)
    ran = on_modal.run("attentive", 2)
    assert states(ran.trials) == {"COMPLETE": 2}
    assert max(trial.user_attrs["resumed"] for trial in ran.trials) > 0


def reported(directory: Path) -> list[tuple[Any, ...]]:
    """Return the reports that the database in ``directory`` holds."""
    try:
        with closing(sqlite3.connect(f"file:{directory}/hpo.db?mode=ro", uri=True)) as database:
            return database.execute("SELECT * FROM trial_intermediate_values").fetchall()
    except sqlite3.OperationalError:  # there is none yet
        return []
