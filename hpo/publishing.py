"""The best model in its place: ``best`` in the study's directory, wherever it was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optuna import Study

from hpo.errors import InputError
from hpo.retention import ELSEWHERE
from hpo.text import short_path
from hpo.winners import choice_of, winning_trial

BEST = "best"
"""Name of the best model's directory in the study's directory."""


@dataclass(frozen=True)
class Published:
    """Where the best model is.

    Attributes:
        model: Where it was trained to: a directory of this machine, or ``modal://VOLUME/PATH``.
        path: Its own place on this machine; ``None`` if it could not be put there.
        problem: Why not.
    """

    model: str
    path: Path | None
    problem: str = ""

    def lines(self, study: str, storage: str) -> list[str]:
        """Say where the model is and how to load it, or how to fetch it.

        Args:
            study: The study's name.
            storage: What to add to a command so that it finds the study: `` --storage URL``.
        """
        if self.path is None:
            where = (
                "on Modal" if self.model.startswith(ELSEWHERE) else f"at {short_path(self.model)}"
            )
            return [
                f"model stays {where} ({self.problem})",
                f"      hpo pull --study {study}{storage} fetches it",
            ]
        shown = short_path(self.path)
        return [
            f"model {shown}",
            "      from sentence_transformers import SentenceTransformer",
            f'      model = SentenceTransformer("{shown}")',
        ]


def publish_best(study: Study, directory: Path) -> Published | None:
    """Copy the winner's model to ``directory``/best, from this machine or from Modal.

    Returns:
        Where it is, or why it could not be fetched; ``None`` if the winner left no model here.
    """
    trial = winning_trial(study)
    model = choice_of(study, trial).model if trial is not None else None
    if model is None or not (model.startswith(ELSEWHERE) or Path(model).is_dir()):
        return None
    try:
        return Published(model, publish(model, directory))
    except InputError as error:
        return Published(model, None, str(error))


def publish(model: str, directory: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Put a model into ``directory``/best; the old one stays until the new one is whole.

    What was fetched from Modal is not fetched again while it is there.

    Args:
        model: A directory of this machine, or ``modal://VOLUME/PATH``.
        directory: The study's directory.
        say: Takes a line on what is done.

    Raises:
        InputError: The model cannot be fetched, or the directory cannot be written.
    """
    best, incoming, outgoing = (directory / (BEST + suffix) for suffix in ("", ".new", ".old"))
    note = directory / f"{BEST}.json"
    if _is_there(best, note, model):
        say("fetched already")
        return best
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)
        sizes = bring(model, incoming, say)
        note.unlink(missing_ok=True)
        if best.exists():
            best.rename(outgoing)
        incoming.rename(best)
        shutil.rmtree(outgoing, ignore_errors=True)
        if sizes is not None:
            note.write_text(json.dumps({"model": model, "files": sizes}))
    except OSError as error:
        raise InputError(
            f"cannot write the model to {best} ({error.strerror or error}); make room, or name "
            "another directory with --out."
        ) from error
    return best


def bring(model: str, target: Path, say: Callable[[str], None]) -> dict[str, int] | None:
    """Copy or fetch a model to ``target``; return the sizes of its files if it was on a Volume.

    Args:
        model: A directory of this machine, or ``modal://VOLUME/PATH``.
        target: Where to; it is not there yet.
        say: Takes a line on what was fetched.

    Raises:
        InputError: The model cannot be fetched.
        OSError: It cannot be copied.
    """
    if not model.startswith(ELSEWHERE):
        # Not with its modes: weights are written for their owner alone.
        shutil.copytree(model, target, copy_function=shutil.copyfile)
        return None
    from hpo.on_modal.volumes import VolumeFiles

    volume, _, path = model.removeprefix(ELSEWHERE).partition("/")
    files = VolumeFiles(volume)
    found = files.download(path, target)
    sizes = {name: facts.size for name, facts in found.items()}
    say(f"{sum(sizes.values()) / 1e6:,.1f} MB fetched from Modal")
    return sizes


def _is_there(best: Path, note: Path, model: str) -> bool:
    """Whether ``best`` holds what was fetched from ``model``, all of it."""
    try:
        kept = json.loads(note.read_text())
        return bool(kept["model"] == model) and all(
            (best / name).stat().st_size == size for name, size in kept["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
