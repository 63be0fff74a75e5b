"""The local executor: warm workers, and what happens when one dies."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import optuna
import psutil
import pytest

from hpo.errors import InputError
from hpo.executors import ExecutorError
from hpo.executors.local import LocalExecutor, machine_slots, visible_gpus
from hpo.executors.local_processes import state_of
from hpo.protocol import AnyEvent, Cause, Done, Failed, Report, Started, Suggest, Suggested, Verdict
from tests.hpo.support import make_task

OBJECTIVES = "tests.hpo.sample_objectives"


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    made = LocalExecutor(tmp_path, workers=2)
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stopped worker be noticed after one second, and look for it more often."""
    monkeypatch.setattr("hpo.executors.local.STOPPED_SECONDS", 1.0)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[LocalExecutor]:
    made = LocalExecutor(tmp_path, workers=1)
    yield made
    made.close()


def is_dead(pid: int) -> bool:
    """Whether a process has ended; an orphan's parent may never take note of that."""
    return state_of(pid) in ("gone", psutil.STATUS_ZOMBIE)


HEARD: WeakKeyDictionary[LocalExecutor, deque[AnyEvent]] = WeakKeyDictionary()
"""What came together with an event that was waited for."""


def until(executor: LocalExecutor, kind: type[AnyEvent], seconds: float = 30) -> AnyEvent:
    """Wait for an event of ``kind``, answering suggestions with 0.5."""
    deadline = time.monotonic() + seconds
    heard = HEARD.setdefault(executor, deque())
    while time.monotonic() < deadline:
        heard.extend(executor.events(0 if heard else 0.2))
        while heard:
            event = heard.popleft()
            if isinstance(event, Suggest):
                executor.reply(event.attempt, Suggested(name=event.name, value=0.5))
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} within {seconds} s")


def test_an_attempt_runs_in_another_process(executor: LocalExecutor, tmp_path: Path) -> None:
    executor.submit(make_task(tmp_path, f"{OBJECTIVES}:pruning"))
    started = until(executor, Started)
    assert isinstance(started, Started)
    assert started.process != os.getpid()
    report = until(executor, Report)
    assert isinstance(report, Report)
    executor.reply("0.1.test", Verdict(step=report.step, prune=True))
    done = until(executor, Done)
    assert isinstance(done, Done)
    assert done.state == "pruned"


def test_output_goes_to_the_attempts_log_and_its_tail_to_the_failure(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    task = make_task(tmp_path, f"{OBJECTIVES}:prints_and_raises")
    executor.submit(task)
    failed = until(executor, Failed)
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.BUG
    assert failed.log_tail.splitlines() == ["on stdout", "on stderr"]
    assert Path(task.log).read_text().splitlines() == ["on stdout", "on stderr"]


def test_a_killed_worker_is_replaced_within_two_seconds(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    handle = executor.submit(make_task(tmp_path, f"{OBJECTIVES}:slow"))
    until(executor, Report)
    began = time.monotonic()
    os.kill(handle["process"], signal.SIGKILL)
    failed = until(executor, Failed)
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.LOST
    assert "SIGKILL" in failed.message
    executor.submit(make_task(tmp_path, f"{OBJECTIVES}:quadratic", attempt="0.2.test"))
    until(executor, Started)
    assert time.monotonic() - began < 2


def test_stop_kills_the_attempt_and_the_slot_is_free_again(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    executor.submit(make_task(tmp_path, f"{OBJECTIVES}:slow"))
    until(executor, Report)
    executor.stop("0.1.test")
    failed = until(executor, Failed)
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.STOPPED
    for number in range(2):
        executor.submit(make_task(tmp_path, f"{OBJECTIVES}:slow", attempt=f"{number}.1.b"))
    with pytest.raises(ExecutorError, match="all 2 workers are busy"):
        executor.submit(make_task(tmp_path))


def test_an_orphan_of_an_earlier_coordinator_is_ended(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    handle = {
        "process": orphan.pid,
        "process_created": psutil.Process(orphan.pid).create_time(),
    }
    other_life = {**handle, "process_created": 0.0}
    assert executor.attach(make_task(tmp_path), other_life) is False
    assert orphan.poll() is None  # another process that got the same pid is left alone
    assert executor.attach(make_task(tmp_path), handle) is False
    assert orphan.wait(timeout=5) == -signal.SIGKILL
    assert executor.attach(make_task(tmp_path), handle) is False


COORDINATOR = """
import sys, time
from pathlib import Path
from hpo.executors.local import LocalExecutor
from tests.hpo.support import make_task
if __name__ == "__main__":
    executor = LocalExecutor(Path(sys.argv[1]), workers=1)
    task = make_task(Path(sys.argv[1]), "tests.hpo.sample_objectives:slow")
    print(executor.submit(task)["process"], flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_coordinator(tmp_path: Path) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(COORDINATOR)
    root = Path(__file__).parents[2]
    coordinator = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert coordinator.stdout is not None
    worker = psutil.Process(int(coordinator.stdout.readline()))
    coordinator.kill()
    coordinator.wait()
    assert psutil.wait_procs([worker], timeout=10)[1] == []


def test_workers_that_cannot_start_are_an_error_not_a_loop(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.write_text("a file where the directory should be")
    executor = LocalExecutor(tmp_path, workers=1)
    with pytest.raises(ExecutorError, match="workers do not start"):
        until(executor, Started)
    executor.close()


def test_the_machine_is_divided_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cores = len(os.sched_getaffinity(0))
    assert [slot.threads for slot in machine_slots(1)] == [cores]
    slots = machine_slots()
    assert sum(slot.threads for slot in slots) <= cores
    assert all(slot.gpu is None for slot in slots)
    assert all(slot.threads == 1 for slot in machine_slots(cores * 2))


def test_a_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    assert [slot.gpu for slot in machine_slots()] == ["3", "5"]
    assert [slot.gpu for slot in machine_slots(4)] == ["3", "5", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


# Workers that live and say nothing.


def test_a_stopped_worker_is_replaced_and_its_attempt_is_lost(
    impatient: None, one: LocalExecutor, tmp_path: Path
) -> None:
    handle = one.submit(make_task(tmp_path, f"{OBJECTIVES}:slow"))
    until(one, Report)
    os.kill(handle["process"], signal.SIGSTOP)
    failed = until(one, Failed, seconds=10)
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.LOST
    assert f"worker process {handle['process']} gave no sign of life" in failed.message
    assert "stopped" in failed.message
    assert is_dead(handle["process"])
    one.submit(make_task(tmp_path, f"{OBJECTIVES}:quadratic", attempt="0.2.test"))
    assert until(one, Done).attempt == "0.2.test"


def test_an_idle_worker_that_is_stopped_is_replaced_too(
    impatient: None, one: LocalExecutor, tmp_path: Path
) -> None:
    handle = one.submit(make_task(tmp_path, f"{OBJECTIVES}:quadratic"))
    until(one, Done)
    os.kill(handle["process"], signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while not is_dead(handle["process"]):
        assert time.monotonic() < deadline
        assert one.events(0.2) == []
    one.submit(make_task(tmp_path, f"{OBJECTIVES}:quadratic", attempt="0.2.test"))
    assert until(one, Done).attempt == "0.2.test"


def holds_the_lock(trial: object) -> float:
    """Keeps Python's lock, so that no thread of its process can say anything."""
    ctypes.PyDLL(None).sleep(30)
    return 0.0


@pytest.mark.slow
def test_a_worker_that_is_silent_for_too_long_is_replaced(tmp_path: Path) -> None:
    executor = LocalExecutor(tmp_path, workers=1, silent_seconds=2)
    try:
        handle = executor.submit(make_task(tmp_path, "tests.hpo.test_local:holds_the_lock"))
        until(executor, Started)
        began = time.monotonic()
        failed = until(executor, Failed, seconds=10)
        assert isinstance(failed, Failed)
        assert failed.cause is Cause.LOST
        assert "gave no sign of life" in failed.message
        assert time.monotonic() - began > 1.5
        assert is_dead(handle["process"])
    finally:
        executor.close()


@pytest.mark.slow
def test_a_coordinator_that_was_away_takes_nobody_for_dead(
    impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = LocalExecutor(tmp_path, workers=1, silent_seconds=1.2)
    try:
        handle = executor.submit(make_task(tmp_path, f"{OBJECTIVES}:slow"))
        until(executor, Report)
        # The machine sleeps for an hour: the clock goes on, and nobody could say anything.
        now = time.monotonic
        monkeypatch.setattr("hpo.executors.local.time.monotonic", lambda: now() + 3600)
        executor.events(0.0)
        time.sleep(1.5)  # and nobody listens
        for _ in range(5):
            assert not [e for e in executor.events(0.1) if isinstance(e, Failed)]
        assert not is_dead(handle["process"])
    finally:
        monkeypatch.undo()
        executor.close()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_fork_server_that_dies_or_stops_is_replaced(
    one: LocalExecutor, tmp_path: Path, blow: signal.Signals
) -> None:
    handle = one.submit(make_task(tmp_path, f"{OBJECTIVES}:slow"))
    until(one, Report)
    server = psutil.Process(handle["process"]).ppid()
    assert server != os.getpid()
    os.kill(server, blow)
    if blow == signal.SIGSTOP:
        os.kill(handle["process"], signal.SIGKILL)  # so that another one has to be forked
    failed = until(one, Failed, seconds=10)
    assert isinstance(failed, Failed)
    assert failed.cause is Cause.LOST
    one.submit(make_task(tmp_path, f"{OBJECTIVES}:quadratic", attempt="0.2.test"))
    assert until(one, Done, seconds=10).attempt == "0.2.test"
    assert is_dead(handle["process"])


# What an earlier executor left.

LEAVES_A_RESULT = """
import os, signal, sys, time
from pathlib import Path
from hpo.executors.local import LocalExecutor
from tests.hpo.support import make_task
if __name__ == "__main__":
    here = Path(sys.argv[1])
    executor = LocalExecutor(here, workers=2)
    finishes = make_task(here, "tests.hpo.test_local:constant")
    stuck = make_task(here, "tests.hpo.test_local:stops_itself", attempt="1.1.test", number=1)
    handles = executor.submit(finishes), executor.submit(stuck)
    print(*(handle["process"] for handle in handles), flush=True)
    time.sleep(60)
"""


def constant(trial: optuna.Trial) -> float:
    trial.set_user_attr("memo", "mine")
    return 0.125


def stops_itself(trial: object) -> float:
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0.0


def test_what_a_killed_coordinator_left_is_found_and_ended(tmp_path: Path) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(LEAVES_A_RESULT)
    coordinator = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert coordinator.stdout is not None
    finished, stopped = map(int, coordinator.stdout.readline().split())
    deadline = time.monotonic() + 20
    outcomes = tmp_path / "outcomes"
    while not list(outcomes.glob("*.json")) or state_of(stopped) != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    coordinator.kill()
    coordinator.wait()
    while not is_dead(finished):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state_of(stopped) == psutil.STATUS_STOPPED  # it cannot end by itself

    # Somebody else's process that has a number of the list by now.
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    roll = tmp_path / "processes.json"
    listed = json.loads(roll.read_text())
    assert {finished, stopped} <= {pid for pid, _ in listed["workers"]}
    listed["workers"].append([stranger.pid, 12345.0])
    roll.write_text(json.dumps(listed))
    executor = LocalExecutor(tmp_path, workers=1)
    try:
        assert is_dead(stopped)
        assert stranger.poll() is None
        # The one that had finished need not run again; the other one has left nothing.
        task = make_task(tmp_path, number=0)
        assert executor.attach(task, {"process": finished, "process_created": 1.0}) is True
        assert executor.attach(make_task(tmp_path, attempt="1.1.test"), {}) is False
        done = until(executor, Done)
        assert isinstance(done, Done)
        assert (done.attempt, done.values) == ("0.1.test", (0.125,))
        assert done.user_attrs == {"memo": "mine"}
    finally:
        executor.close()
        stranger.kill()
        stranger.wait()


def test_an_outcome_of_another_attempt_is_not_taken_for_this_ones(
    one: LocalExecutor, tmp_path: Path
) -> None:
    one.submit(make_task(tmp_path, "tests.hpo.test_local:constant"))
    until(one, Done)
    assert one.attach(make_task(tmp_path, attempt="0.2.test"), {}) is False
    assert one.events(0.1) == []


def ends_what_it_started(trial: object) -> float:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    forked.start()
    time.sleep(0.2)
    program.terminate()
    forked.terminate()
    forked.join(10)
    return float(program.wait(10) == forked.exitcode == -signal.SIGTERM)


def test_a_worker_outlives_sigterm_and_what_its_objective_starts_does_not(
    one: LocalExecutor, tmp_path: Path
) -> None:
    handle = one.submit(make_task(tmp_path, "tests.hpo.test_local:ends_what_it_started"))
    until(one, Started)
    os.kill(handle["process"], signal.SIGTERM)
    done = until(one, Done)
    assert isinstance(done, Done)
    assert done.values == (1.0,)


def test_a_directory_serves_one_coordinator(executor: LocalExecutor, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hpo.executors.local import LocalExecutor\n"
        "LocalExecutor(Path(sys.argv[1]), workers=1)\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "is in use by another coordinator" in second.stderr
    assert executor.submit(make_task(tmp_path, "tests.hpo.sample_objectives:quadratic"))
    until(executor, Done)


def test_a_damaged_list_of_processes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("[[1, 2.0]]")
    with pytest.raises(InputError, match=r"processes\.json is damaged"):
        LocalExecutor(tmp_path, workers=1)


def test_a_worker_that_was_not_written_down_in_time_is_ended_too(tmp_path: Path) -> None:
    script = tmp_path / "coordinator.py"
    script.write_text(COORDINATOR)
    coordinator = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert coordinator.stdout is not None
    pid = int(coordinator.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    coordinator.kill()
    coordinator.wait()
    # As if the coordinator had been killed before it came to write the worker down.
    roll = json.loads((tmp_path / "processes.json").read_text())
    (tmp_path / "processes.json").write_text(json.dumps({**roll, "workers": []}))
    LocalExecutor(tmp_path, workers=1).close()
    assert is_dead(pid)


def test_a_second_study_of_a_process_goes_on_with_its_helpers(tmp_path: Path) -> None:
    """They would be killed as leftovers of the first, just as the second starts its workers."""

    def helpers() -> set[int]:
        children = psutil.Process().children()
        return {each.pid for each in children if "multiprocessing." in " ".join(each.cmdline())}

    LocalExecutor(tmp_path, 1).close()
    before = helpers()
    LocalExecutor(tmp_path, 1).close()
    assert len(before) == 2
    assert helpers() == before
