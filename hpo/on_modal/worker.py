"""What runs in a GPU container: one trial's call, from its claim to its last event.

Modal may run a call more than once: a container that is taken away is replaced, and a coordinator
that died may not know that it had spawned it. So a call first claims its attempt in a Dict. Only
one call can have it; a call that finds its own claim was restarted. If the container before had the
time to say that it was told to go, the attempt goes on from its checkpoint, within the time that it
has left; if it died without a word, the attempt is lost, which the coordinator counts and mends.

What the worker says goes through a Queue, which may lose it; what counts is what the call returns.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from types import FrameType

import modal
import psutil
from modal.exception import InputCancellation

from hpo.executors.local import visible_gpus
from hpo.executors.local_worker import release_memory
from hpo.on_modal.calls import UNREACHABLE, text_of
from hpo.on_modal.channel import QueueChannel
from hpo.on_modal.messages import (
    CACHE_VOLUME,
    FINGERPRINT,
    LAST,
    RESTART,
    RUNS,
    RUNS_VOLUME,
    Claim,
    Job,
    Memory,
    Outcome,
    Start,
    parse,
)
from hpo.on_modal.post import note
from hpo.on_modal.pricing import (
    BOOT_SECONDS,
    IDLE_SECONDS,
    billed_before,
    gpu_of_this_container,
)
from hpo.protocol import Cause, Done, Failed, Task, Usage
from hpo.worker import log_tail, output_to, run_attempt

AGAIN_SECONDS = 2.0
"""How often an attempt that has used up its time is told so again, should it swallow that."""

TEE_SECONDS = 1.0
"""How long the end of an attempt waits for what it printed; a child it left may print on."""

VOLUME_TRIES = 3
"""How often a Volume is asked to commit or to reload, a second apart."""

MEMORY = ".said.json"
"""What is put after the name of a trial's directory for its memory."""

LOST = "its container died without a word: killed, or out of memory (--memory)"


class AttemptTimeout(BaseException):
    """The attempt has used up its time. Not an Exception: an objective must not swallow it."""


def run_trial(text: str) -> str:
    """Run the attempt of a :class:`Job`; return an :class:`Outcome`.

    Raises:
        InputCancellation, KeyboardInterrupt: Modal ends the call, or this container.
    """
    job = parse(Job, text)
    start = _METER.begin()
    try:
        return _attend(job, start).model_dump_json()
    except Exception as error:  # Modal's or our own: those of the objective never get here
        final = _failed(job, LAST, Cause.LOST, f"its worker failed: {text_of(error)}")
        return Outcome(event=_billed(final, _METER.end())).model_dump_json()


def _attend(job: Job, start: Start) -> Outcome:
    if job.deployment and job.deployment != os.environ.get(FINGERPRINT):
        return Outcome(redeployed=True, seconds=_METER.end())
    claim = _claim(job, start)
    if claim.call != modal.current_function_call_id():
        return Outcome(claimed_by=claim.call, seconds=_METER.end())
    try:
        final = _run(job, claim)
    except (KeyboardInterrupt, InputCancellation):
        _note_end(job, claim)
        raise
    finally:
        release_memory()
        seconds = _METER.end()
    return Outcome(event=_billed(final, billed_before(claim.starts) + seconds))


def _claim(job: Job, start: Start) -> Claim:
    """Claim the attempt for this call, or note that the call began again; return the claim."""
    claims = modal.Dict.from_name(job.key, create_if_missing=True)
    call = modal.current_function_call_id()
    assert call is not None  # it is None only outside of a call
    mine = Claim(call=call, starts=(start,))
    if claims.put(job.task.attempt, mine.model_dump_json(), skip_if_exists=True):
        return mine
    found = parse(Claim, claims.get(job.task.attempt))
    if found.call == call:
        found = Claim(call=call, starts=(*found.starts, start))
        claims.put(job.task.attempt, found.model_dump_json())
    return found


def _note_end(job: Job, claim: Claim) -> None:
    """Note that this container was told to go: the next one may go on where it stopped."""
    last = claim.starts[-1].model_copy(update={"ended": time.time()})
    ended = Claim(call=claim.call, starts=(*claim.starts[:-1], last))
    try:
        claims = modal.Dict.from_name(job.key, create_if_missing=True)
        claims.put(job.task.attempt, ended.model_dump_json())
    except (modal.exception.Error, *UNREACHABLE) as error:
        note(f"the end of this container could not be noted: {text_of(error)}")


def _run(job: Job, claim: Claim) -> Done | Failed:
    """Run the attempt to its last event, and return that."""
    again = len(claim.starts) > 1
    first = (len(claim.starts) - 1) * RESTART
    if again and claim.starts[-2].ended is None:
        return _failed(job, first, Cause.LOST, LOST)
    task = job.task.model_copy(update={"resume": job.task.resume or again})
    _see_what_others_wrote(job, task.resume)
    memory = Path(task.directory + MEMORY)
    known = task.resume and memory.exists()
    before = parse(Memory, memory.read_text()) if known else Memory()
    channel = QueueChannel(job, first, before)
    try:
        final = _evaluate(job, task, channel, job.timeout - billed_before(claim.starts))
    except KeyboardInterrupt:
        _remember(channel, memory)  # the regular end of this container commits it
        raise
    finally:
        channel.close()
    unwanted = list(job.discard)
    if not _goes_on(final):
        memory.unlink(missing_ok=True)
        if not (isinstance(final, Done) and final.state == "complete"):
            unwanted.append(task.directory)
    for directory in unwanted:
        shutil.rmtree(directory, ignore_errors=True)
    _commit()
    return _with_way_out(final)


def _evaluate(job: Job, task: Task, channel: QueueChannel, seconds: float) -> Done | Failed:
    """Evaluate the objective, for so many seconds at most."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-"))
    log = folder / "log"
    task = task.model_copy(update={"log": str(log), "test": _unpacked(job, folder)})
    process = os.getpid()

    def commit() -> None:
        _remember(channel, Path(task.directory + MEMORY))
        _or_note(modal.Volume.from_name(RUNS_VOLUME).commit, "a checkpoint cannot be committed")

    try:
        with _teed(log), _deadline(seconds):
            run_attempt(
                task,
                channel,
                "cuda" if visible_gpus() else "cpu",
                interrupts=(KeyboardInterrupt, InputCancellation, AttemptTimeout),
                commit=commit,
            )
    except AttemptTimeout:
        if channel.final is None:
            _tell(job, channel, Cause.TIMEOUT, f"it ran longer than {job.timeout:,.0f} s", log)
    except InputCancellation:
        # Modal does not pass on what a cancelled call returns; the coordinator knows that it was.
        _tell(job, channel, Cause.STOPPED, "cancelled", log)
        raise
    finally:
        if os.getpid() != process:
            os._exit(0)  # a child that the objective forked and forgot must not go on as the worker
        shutil.rmtree(folder, ignore_errors=True)
    assert channel.final is not None  # run_attempt ends in no other way
    return channel.final


def _unpacked(job: Job, folder: Path) -> str | None:
    """Write the test split that came with the job to a file; return its path."""
    if job.test is None:
        return None
    path = folder / "test.jsonl"
    path.write_text(job.test, encoding="utf-8")
    return str(path)


def _goes_on(final: Done | Failed) -> bool:
    """Whether another attempt may go on from the checkpoint of one that ended so."""
    return isinstance(final, Failed) and (
        final.cause.is_infrastructure or final.cause is Cause.STOPPED
    )


def _remember(channel: QueueChannel, memory: Path) -> None:
    """Keep what the trial has said with the checkpoint that it goes on from."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(channel.memory().model_dump_json())


def _with_way_out(final: Done | Failed) -> Done | Failed:
    """Say how to ship a module that the objective imports only when it runs."""
    if not isinstance(final, Failed) or not final.message.startswith("ModuleNotFoundError"):
        return final
    way_out = "; ship it with --include PATH, or with --pip PACKAGE"
    return final.model_copy(update={"message": final.message + way_out})


def _see_what_others_wrote(job: Job, resume: bool) -> None:
    """Let a container that is older than the data, or than a checkpoint, see them."""
    needed = [*([job.task.data] if job.task.data is not None else []), *job.task.assets.values()]
    missing = [each for each in needed if not Path(each).is_dir()]
    of_runs = [each for each in missing if PurePosixPath(each).is_relative_to(RUNS)]
    if len(missing) > len(of_runs):
        _patiently(modal.Volume.from_name(CACHE_VOLUME).reload)
    if resume or of_runs:
        _patiently(modal.Volume.from_name(RUNS_VOLUME).reload)
    elif job.discard:
        # What is not seen cannot be removed, which is a pity and no more.
        _or_note(modal.Volume.from_name(RUNS_VOLUME).reload, "old weights cannot be removed")


def _commit() -> None:
    _patiently(modal.Volume.from_name(RUNS_VOLUME).commit)


def _or_note(action: Callable[[], object], failure: str) -> None:
    """Do what may be left undone."""
    try:
        _patiently(action)
    except (RuntimeError, modal.exception.Error, *UNREACHABLE) as error:
        note(f"{failure}: {text_of(error)}")


def _patiently(action: Callable[[], object]) -> None:
    """Do what a Volume may refuse while a file in it is open, or while Modal is away."""
    for left in reversed(range(VOLUME_TRIES)):
        try:
            action()
            return
        except (RuntimeError, modal.exception.Error, *UNREACHABLE):
            if left == 0:
                raise
        gc.collect()  # what an earlier attempt left open in this container
        time.sleep(1.0)


def _tell(job: Job, channel: QueueChannel, cause: Cause, message: str, log: Path) -> None:
    channel.send(lambda n: _failed(job, n, cause, message, log_tail(log)))


def _failed(job: Job, sequence: int, cause: Cause, message: str, tail: str = "") -> Failed:
    return Failed(
        attempt=job.task.attempt, sequence=sequence, cause=cause, message=message, log_tail=tail
    )


def _billed(final: Done | Failed, seconds: float) -> Done | Failed:
    usage = Usage(gpu=gpu_of_this_container(), seconds=seconds)
    return final.model_copy(update={"usage": usage})


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise :class:`AttemptTimeout` in the block after ``seconds``, and again if it goes on."""
    armed = True

    def expire(number: int, frame: FrameType | None) -> None:
        if armed:
            raise AttemptTimeout

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds), AGAIN_SECONDS)
    try:
        yield
    finally:
        while armed:
            with contextlib.suppress(AttemptTimeout):  # the alarm may ring at any line
                armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _teed(log: Path) -> Iterator[None]:
    """Write what the block prints to ``log``, and also to the container's own log."""
    out = os.dup(1)
    with output_to(log):
        read, write = os.pipe()
        file = os.dup(1)
        restore = os.dup(1)
        for stream in (1, 2):
            os.dup2(write, stream)
        os.close(write)

        def copy() -> None:
            # It ends when nothing can write any more: not before a child that was left behind.
            while data := os.read(read, 1 << 16):
                os.write(file, data)
                os.write(out, data)
            for descriptor in (read, file, out):
                os.close(descriptor)

        copying = threading.Thread(target=copy, daemon=True)
        copying.start()
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(restore, 1)
            os.dup2(restore, 2)  # the last writing ends of the pipe
            os.close(restore)
            copying.join(TEE_SECONDS)


class _Meter:
    """Counts the seconds of this container, so that each is billed to one attempt."""

    def __init__(self) -> None:
        self._billed = psutil.Process().create_time() - BOOT_SECONDS
        self._tail = float(IDLE_SECONDS)

    def begin(self) -> Start:
        """Return when the seconds of a new attempt began."""
        container = os.environ.get("MODAL_TASK_ID", "")
        return Start(container=container, billed_from=self._billed, began=time.time())

    def end(self) -> float:
        """Return the seconds since then; those that the container idles at its end come first."""
        now, tail = time.time(), self._tail
        seconds = max(0.0, now - self._billed) + tail
        self._billed, self._tail = now, 0.0
        return seconds


_METER = _Meter()
