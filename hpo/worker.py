"""The code around the objective where it runs: one task in, events out.

Every way in which an objective can end becomes one final event with a cause; the executors differ
only in the channel that they hand to :func:`run_attempt`.
"""

from __future__ import annotations

import io
import os
import platform
import random
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna import TrialPruned

from hpo.current import CurrentAttempt, already_durable, attempt_context
from hpo.objective import Objective, ObjectiveError, load_objective
from hpo.protocol import Cause, Failed, Started, Task
from hpo.remote_trial import AttemptStopped, Channel, RemoteTrial

LOG_TAIL_LINES = 20
"""How many lines of an attempt's output are shown when it fails."""


def run_attempt(
    task: Task,
    channel: Channel,
    device: str | None,
    objective: Objective | None = None,
    interrupts: tuple[type[BaseException], ...] = (),
    commit: Callable[[], None] = already_durable,
) -> None:
    """Run ``task`` to its end and send what happened.

    Args:
        task: The attempt.
        channel: The line to the coordinator.
        device: What the objective should use, ``"cpu"`` or ``"cuda"``; ``None`` if it may choose.
        objective: The objective, where this process holds it already; else it is imported.
        interrupts: What the platform raises to end an attempt; it is passed on, as only the caller
            knows what it means.
        commit: Makes what the objective wrote durable, where a file system does not at once.
    """
    channel.send(
        lambda n: Started(
            attempt=task.attempt,
            sequence=n,
            machine=platform.node(),
            process=os.getpid(),
            device=device,
        )
    )
    trial = RemoteTrial(task, channel)
    try:
        values = _evaluate(task, trial, device, objective, commit)
    except interrupts:
        raise
    except TrialPruned:
        channel.send(trial.done(()))
    except AttemptStopped:
        _fail(task, channel, Cause.STOPPED, "stopped by the coordinator")
    except ObjectiveError as error:
        _fail(task, channel, Cause.BAD_INPUT, str(error))
    except BaseException as error:  # also SystemExit: an objective must not take its worker along
        text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        _fail(task, channel, _cause_of(error), text, _own_traceback(error))
    else:
        channel.send(trial.done(values))


def _evaluate(
    task: Task,
    trial: RemoteTrial,
    device: str | None,
    objective: Objective | None,
    commit: Callable[[], None],
) -> Sequence[float]:
    if objective is None:
        objective = load_objective(task.objective)
    function = objective if task.method == "__call__" else getattr(objective, task.method)
    directory = Path(task.directory)
    directory.mkdir(parents=True, exist_ok=True)
    current = CurrentAttempt(
        number=task.number,
        seed=task.seed,
        directory=directory,
        resume=task.resume and any(directory.iterdir()),
        data=Path(task.data) if task.data is not None else None,
        device=device,
        assets={name: Path(path) for name, path in task.assets.items()},
        commit=commit,
        test=Path(task.test) if task.test is not None else None,
    )
    random.seed(task.seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(task.seed % 2**32)
    with attempt_context(current):
        returned = function(trial)
    return _values(returned, len(task.directions))


class BadValueError(TypeError):
    """The objective returned something that is not its number of finite-or-infinite floats."""


def _values(returned: Any, expected: int) -> tuple[float, ...]:
    """Return what the objective returned as ``expected`` floats.

    Raises:
        BadValueError: None, text, or another number of values.
        FloatingPointError: NaN, which means that the trial diverged.
    """
    several = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
    parts = list(returned) if several else [returned]
    try:
        if any(isinstance(part, str | bytes) for part in parts):
            raise TypeError
        values = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise BadValueError(
            f"the objective returned {returned!r}; it must return a float"
            + ("" if expected == 1 else f" for each of its {expected} directions")
        ) from None
    if len(values) != expected:
        raise BadValueError(
            f"the objective returned {len(values)} values for {expected} direction(s); "
            "give --direction once for each value"
        )
    if any(value != value for value in values):
        raise FloatingPointError(f"the objective returned {returned!r}")
    return values


# By name, so that nothing here imports torch: torch.OutOfMemoryError, torch.cuda.OutOfMemoryError.
_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}


def _cause_of(error: BaseException) -> Cause:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _OUT_OF_MEMORY:
        return Cause.OUT_OF_MEMORY
    if isinstance(error, FloatingPointError):
        return Cause.DIVERGED
    return Cause.BUG


def _own_traceback(error: BaseException) -> str:
    """Format the traceback from the objective on, without this module's frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    if frames is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, frames))


def _fail(task: Task, channel: Channel, cause: Cause, message: str, trace: str = "") -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    channel.send(
        lambda n: Failed(
            attempt=task.attempt,
            sequence=n,
            cause=cause,
            message=message,
            traceback=trace,
            log_tail=log_tail(Path(task.log)),
        )
    )


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last ``lines`` lines of an attempt's log; empty if it wrote nothing."""
    try:
        with path.open("rb") as file:
            file.seek(0, io.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return "\n".join(text.splitlines()[-lines:])


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send this process's stdout and stderr, also those of C code and children, to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(1), os.dup(2)]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (file, *saved):
            os.close(descriptor)
