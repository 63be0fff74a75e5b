"""What an objective may know about the attempt it runs in.

A plain Optuna objective needs none of this. An objective that writes checkpoints or reads prepared
data asks :func:`current_attempt`; it is all that ``objectives/`` imports from ``hpo/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


def already_durable() -> None:
    """Do nothing: on this machine a file that was written is there for the next attempt."""


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
        assets: Where directories that the objective named in ``assets()`` lie on this machine, by
            their names; empty where they lie in their own places.
        test: The test split; only in the final evaluation of a winner, else ``None``.
        commit: Makes what is in ``directory`` durable: to be called once a checkpoint is complete.
            On Modal it commits the Volume; elsewhere it does nothing.
    """

    number: int
    seed: int
    directory: Path
    resume: bool
    data: Path | None
    device: str | None
    assets: Mapping[str, Path] = field(default_factory=dict)
    commit: Callable[[], None] = already_durable
    test: Path | None = None


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
