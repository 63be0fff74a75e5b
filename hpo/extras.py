"""What a study attempts besides its trials: baselines, finalists, the evaluation of a winner.

None of them is a trial: no sampler learns from it and no ``--trials`` counts it. What it takes is
written down all the same, in a list that is a user attribute of the study, so that a coordinator
that comes back finds what runs, and pays for nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from optuna import Study

from hpo.attempts import Attempt, Attempted
from hpo.protocol import ATTEMPTS, NO_TRIAL


@dataclass(eq=False)
class Extra(Attempted):
    """Something that is attempted like a trial, but is none.

    Attributes:
        attribute: The study's user attribute that lists the attempts at all of its kind.
        study: Optuna's study.
        identity: What tells it from the others of its kind, as JSON.
        label: What it is, for people.
        attempts: All attempts, oldest first; the last one may be running.
    """

    attribute: ClassVar[str]

    study: Study
    identity: dict[str, Any]
    label: str
    attempts: list[Attempt]
    number = NO_TRIAL

    def save(self) -> None:
        """Write the attempts as they are; costs no writing if the storage has them so."""
        written = attempted(self.study, self.attribute)
        own = {**self.identity, ATTEMPTS: self.records()}
        if own not in written:
            others = [each for each in written if _identity(each) != self.identity]
            self.study.set_user_attr(self.attribute, [*others, own])

    def is_same(self, other: object) -> bool:
        """Whether ``other`` stands for the same thing, maybe with less known of its attempts."""
        return type(other) is type(self) and other.identity == self.identity


def attempted(study: Study, attribute: str) -> list[dict[str, Any]]:
    """Return what is written down of attempts: an identity with its ``attempts`` in each entry."""
    written: list[dict[str, Any]] = study.user_attrs.get(attribute, [])
    return written


def attempts_of(written: list[dict[str, Any]], identity: dict[str, Any]) -> list[Attempt]:
    """Return the attempts at what has this identity, oldest first."""
    own = (each for each in written if _identity(each) == identity)
    return [Attempt.model_validate(record) for each in own for record in each[ATTEMPTS]]


def is_extra(attempt: str) -> bool:
    """Whether the attempt of this id was not at a trial."""
    return attempt.startswith(f"{NO_TRIAL}.")


def _identity(written: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in written.items() if name != ATTEMPTS}
