"""Scores of models on the validation pairs, kept beside the study: what two models are compared by.

A trial's weights are removed when it is not among the best, and its scores stay: they are small,
and tell whether a cheaper model is as good as the winner on the very same pairs.
"""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = "scores"
"""Name of the directory of scores in the study's directory."""


def scores_path(directory: Path, trial: int, run: int | None = None) -> Path:
    """Return the file for the scores of a trial, or of one run of a finalist."""
    name = str(trial) if run is None else f"{trial}-{run}"
    return directory / DIRECTORY / name


def keep_scores(path: Path, text: object) -> None:
    """Write scores, if ``text`` is any; to do it again changes nothing, nobody reads half of it."""
    if not isinstance(text, str):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(path.name + ".new")
    incoming.write_text(text, encoding="ascii")
    os.replace(incoming, path)


def read_scores(path: Path) -> str | None:
    """Return scores; ``None`` if there are none."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
