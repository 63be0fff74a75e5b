"""``hpo pull``: the best model of a study, brought to this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpo.errors import InputError
from hpo.exporting import write_card
from hpo.publishing import Published, publish
from hpo.queries import Found, best_trials, is_snapshot, recorded_directory
from hpo.retention import ELSEWHERE, MODEL
from hpo.summary import describe
from hpo.winners import choice_of


def pull_best(found: Found, out: Path | None, say: Callable[[str], None]) -> None:
    """Bring the model of a study's best trial into its place here, and say where that is.

    Args:
        found: The study.
        out: The directory that holds the study's; ``None`` for the usual one.
        say: Takes what was done, line by line.

    Raises:
        InputError: There is no single best trial, it left no model, or that cannot be brought here.
    """
    name = found.study.study_name
    best = best_trials(found)
    if len(found.study.directions) > 1:
        raise InputError(
            f"study {name!r} has several directions, and {len(best)} trials that none beats in all "
            "of them: choose one (hpo best), and copy its model from where that says it is."
        )
    (trial,) = best
    model = choice_of(found.study, trial).model
    if model is None:
        raise InputError(
            f"the best trial of study {name!r}, trial {trial.number}, left no model: its objective "
            f"set no user attribute {MODEL!r}."
        )
    say(f"best  {describe(trial)}")
    if not model.startswith(ELSEWHERE) and not Path(model).is_dir():
        raise InputError(
            f"the model of trial {trial.number} was written to {model}, which is not on this "
            "machine (any more): pull it where the study was run."
        )
    say(f"from  {model}")
    path = publish(model, _directory(found, out), lambda line: say(f"      {line}"))
    write_card(found, path)
    for line in Published(model, path).lines(name, ""):
        say(line)


def _directory(found: Found, out: Path | None) -> Path:
    """Return the study's directory on this machine."""
    if out is None and not is_snapshot(found.settings.storage):
        recorded = recorded_directory(found.study)
        if recorded is not None and recorded.is_dir():
            return recorded
    return ((out or found.settings.out) / found.study.study_name).resolve()
