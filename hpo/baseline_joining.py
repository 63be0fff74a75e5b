"""Letting the score of a model join its study, whoever else writes there.

Scores are one attribute of the study, a list, which is read, changed and written. So there must be
one writer at a time: this command, another one, or the coordinator, which adds the models that the
study itself tunes when it begins. Once those have their scores it writes the list no more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from hpo.baselines import BASELINES
from hpo.errors import InputError
from hpo.queries import Found
from hpo.record import StudyRecord
from hpo.summary import baselines_of
from storage import OwnedError, Owner, Ownership, own_study, owner_of

BUSY_SECONDS = 10.0
"""How long to wait for another command that writes: it takes milliseconds."""

_PAUSE_SECONDS = 0.1


def check_joinable(found: Found) -> None:
    """See that a score could join, before anything is paid for one.

    Raises:
        InputError: A coordinator is about to write scores of its own.
    """
    owner = owner_of(found.settings.storage, found.study.study_name)
    if owner is not None:
        _refuse_while_scoring(found, owner)


def join(found: Found, record: dict[str, Any]) -> None:
    """Write a score into the study, in place of an older one of the same model.

    Raises:
        InputError: A coordinator is about to write scores of its own.
    """
    with _alone(found):
        others = [each for each in baselines_of(found.study) if each["params"] != record["params"]]
        found.study.set_user_attr(BASELINES, [*others, record])


@contextlib.contextmanager
def _alone(found: Found) -> Iterator[None]:
    """Keep every other writer of the list away."""
    url, name = found.settings.storage, found.study.study_name
    with contextlib.ExitStack() as stack:
        stack.enter_context(_turn(url, f"{name}/{BASELINES}"))
        try:
            stack.enter_context(own_study(url, name))
        except OwnedError as error:
            _refuse_while_scoring(found, error.owner)
        yield


def _turn(url: str, name: str) -> Ownership:
    """Wait for a lock that no study can have, as no study's name has a slash."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return own_study(url, name)
        except OwnedError as error:
            if time.monotonic() >= end:
                raise InputError(
                    f"another command has been writing scores for {BUSY_SECONDS:.0f} s: "
                    f"{error.owner}. End it, and run this one again: vectors that were paid for "
                    "are kept."
                ) from None
            time.sleep(_PAUSE_SECONDS)


def _refuse_while_scoring(found: Found, owner: Owner) -> None:
    """Refuse while the study's coordinator has models of its own to score.

    Raises:
        InputError: It has.
    """
    study = found.study
    options = StudyRecord.of(study).options or {}
    scored = [each["params"] for each in baselines_of(study)]
    waiting = [model for model in options.get("models", ()) if {"base_model": model} not in scored]
    if waiting:
        raise InputError(
            f"study {study.study_name!r} is run by {owner}, which has yet to score "
            f"{', '.join(waiting)} and would write over a score from here: run the same command "
            "again when `hpo best` shows those, or when the coordinator has ended. Vectors that "
            "were paid for are kept."
        )
