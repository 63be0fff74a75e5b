"""The local executor: warm workers, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hpo.executors import ExecutorError
from hpo.executors.local import LocalExecutor, machine_slots, visible_gpus
from hpo.protocol import AnyEvent, Cause, Done, Failed, Report, Started, Suggest, Suggested, Verdict
from tests.hpo.support import make_task

OBJECTIVES = "tests.hpo.sample_objectives"


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    made = LocalExecutor(tmp_path, workers=2)
    yield made
    made.close()


def until(executor: LocalExecutor, kind: type[AnyEvent], seconds: float = 30) -> AnyEvent:
    """Wait for an event of ``kind``, answering suggestions with 0.5."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in executor.events(0.2):
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
