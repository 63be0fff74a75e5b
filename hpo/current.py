"""What an objective may know about the attempt it runs in.

A plain Optuna objective needs none of this. An objective that writes checkpoints or reads prepared
data asks :func:`current_attempt`; it is all that ``objectives/`` imports from ``hpo/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CurrentAttempt:
    """The attempt that runs here.

    Attributes:
        number: The trial's number in its study; -1 while a baseline is scored.
        seed: A seed of its own for every trial, the same in every attempt of it.
        directory: Where this trial keeps its checkpoints and its model. It exists.
        resume: Whether an earlier attempt of this trial left something in ``directory``.
        data: What the objective's ``prepare`` wrote for trials; ``None`` if it has no ``prepare``.
        device: ``"cpu"`` or ``"cuda"``; ``None`` leaves the choice to the objective.
    """

    number: int
    seed: int
    directory: Path
    resume: bool
    data: Path | None
    device: str | None


_current: ContextVar[CurrentAttempt] = ContextVar("hpo_current_attempt")


def current_attempt() -> CurrentAttempt:
    """Return the attempt that the calling objective runs in.

    Raises:
        RuntimeError: The caller does not run inside a worker.
    """
    try:
        return _current.get()
    except LookupError:
        raise RuntimeError(
            "hpo.current_attempt() was called outside an attempt: it answers only inside an "
            "objective that hpo runs (python -m hpo.run or hpo.optimize)."
        ) from None


@contextmanager
def attempt_context(attempt: CurrentAttempt) -> Iterator[None]:
    """Make ``attempt`` the one that :func:`current_attempt` returns inside the block."""
    token = _current.set(attempt)
    try:
        yield
    finally:
        _current.reset(token)
