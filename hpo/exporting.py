"""``hpo export``: a trial's model as a plain directory that anybody can load, with a card.

The directory is there whole or not at all. Only an empty one, or one that hpo wrote itself, is
taken; what else lies there is somebody's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import trial_seed
from hpo.errors import InputError
from hpo.evaluation import EVALUATION
from hpo.model_card import Card, render, shareable
from hpo.objective import Objective, load_objective
from hpo.publishing import Published, bring
from hpo.queries import Found, best_trials, recorded_directory, requirement_lines
from hpo.record import RECORD, StudyRecord
from hpo.retention import ELSEWHERE, MODEL
from hpo.strict_json import to_json
from hpo.summary import baselines_of, describe
from hpo.text import score, short_path
from hpo.winners import Chosen, choice_of, winner_of, winning_trial

MARKER = "hpo.json"
"""A file in every directory that hpo exported: what the card says, for programs."""


def export(
    found: Found,
    number: int | None,
    out: Path,
    say: Callable[[str], None],
    hub_id: str | None = None,
) -> Path:
    """Write a trial's model and its card to ``out``; return where that is.

    Args:
        found: The study.
        number: The trial, for the model that it left; ``None`` for the model that won.
        out: The directory.
        say: Takes what was done, line by line.
        hub_id: Where the model is going to be on the hub, if it is going there.

    Raises:
        InputError: There is no such trial, its weights are gone, or ``out`` cannot be written.
    """
    place = check_place(out)
    trial = find_trial(found, number)
    chosen = Chosen(trial) if number is not None else choice_of(found.study, trial)
    model = _weights(found, chosen)
    say(f"from  {describe(trial)}")
    say(f"      {model}")
    card = card_of(found, chosen, hub_id or place.name)
    try:
        write_model(model, place, card, say)
    except InputError as error:
        if not (model.startswith(ELSEWHERE) and _is_missing(error)):
            raise
        raise _gone(found, chosen, model) from error
    return place


def _is_missing(error: InputError) -> bool:
    from hpo.on_modal.volumes import MissingError

    return isinstance(error, MissingError)


def find_trial(found: Found, number: int | None) -> FrozenTrial:
    """Return a completed trial: the one named, else the best.

    Raises:
        InputError: There is no such trial, it did not complete, or no single one is best.
    """
    name = found.study.study_name
    if number is None:
        best = best_trials(found)
        if len(found.study.directions) > 1:
            numbers = ", ".join(str(trial.number) for trial in best)
            raise InputError(
                f"study {name!r} has several directions, and no trial is best in all of them; "
                f"choose one that none beats: {numbers}."
            )
        return best[0]
    trials = found.study.get_trials(deepcopy=False)
    trial = next((each for each in trials if each.number == number), None)
    if trial is None:
        raise InputError(
            f"study {name!r} has no trial {number}; it has {len(trials)} trials, from 0 on."
        )
    if trial.state is not TrialState.COMPLETE:
        raise InputError(
            f"trial {number} of study {name!r} is {trial.state.name.lower()}; only a completed "
            f"trial has a model and a value (hpo trials --study {name})."
        )
    return trial


def _weights(found: Found, chosen: Chosen) -> str:
    """Return where a model's weights are.

    Raises:
        InputError: Nowhere within reach.
    """
    name, model = found.study.study_name, chosen.model
    if model is None:
        raise InputError(
            f"{chosen.name} of study {name!r} left no model: its objective set no user attribute "
            f"{MODEL!r}."
        )
    if not model.startswith(ELSEWHERE) and not Path(model).is_dir():
        raise _gone(found, chosen, model)
    return model


def _gone(found: Found, chosen: Chosen, model: str) -> InputError:
    name, number = found.study.study_name, chosen.trial.number
    return InputError(
        f"the weights of {chosen.name} of study {name!r} are not at {model} (any more): a study "
        "keeps those of its best trials only (--keep), where it ran. Train it again: "
        f"hpo train --study {name} --params {number} --out DIR"
    )


def write_card(found: Found, place: Path) -> None:
    """Put a card beside the winner's model at ``place``, if it is a SentenceTransformer there."""
    trial = winning_trial(found.study)
    if trial is None or not (place / "modules.json").is_file():
        return
    card = card_of(found, choice_of(found.study, trial), short_path(place))
    (place / "README.md").write_text(render(card), encoding="utf-8")


def card_of(found: Found, chosen: Chosen, place: str) -> Card:
    """Return the card of a model, as far as the study says.

    Args:
        found: The study.
        chosen: The model.
        place: How to load the model.
    """
    study, trial = found.study, chosen.trial
    record = StudyRecord.of(study) if RECORD in study.user_attrs else None
    made: dict[str, Any] = {"made by": made_by(), "study": study.study_name, "trial": trial.number}
    if record is not None:
        made["seed"] = trial_seed(record.seed, trial.number, chosen.number)
    if (winner := winner_of(study)) is not None and chosen.run is not None:
        made["chosen by"] = (
            f"the mean of {winner['seeds']} seeds on validation, {score(winner['mean'])} ± "
            f"{winner['std']:.4f}; this model is the best of them"
        )
    return Card(
        place=place,
        params=trial.params,
        metrics=chosen.metrics,
        made=made,
        origin=_origin(record, trial.params),
        untuned=untuned_metrics(study, trial.params),
        data=manifest_of(recorded_directory(study)),
        rules=requirement_lines(study, trial),
        test=test_scores(study, chosen),
    )


def made_by() -> str:
    """Return the name and the version of this program."""
    return f"hpo {importlib.metadata.version('hpo')}"


def _origin(record: StudyRecord | None, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a study's objective knows of the base model; nothing if it cannot be asked."""
    spec = record.spec() if record is not None else None
    if spec is None:
        return {}
    try:
        return origin_of(load_objective(spec), params)
    except ValueError:  # it is not on this machine: the model can be exported all the same
        return {}


def origin_of(objective: Objective, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an objective knows of the base model of a trial with ``params``."""
    origin = getattr(objective, "origin", None)
    found: Mapping[str, Any] = origin(params) if origin is not None else {}
    return found


def untuned_metrics(study: Study, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the metrics of the untuned model that a trial with ``params`` began with."""
    for record in baselines_of(study):
        own = record["params"]
        if own and all(name in params and params[name] == own[name] for name in own):
            metrics: Mapping[str, Any] = record["metrics"]
            return metrics
    return None


def manifest_of(directory: Path | None) -> Mapping[str, Any] | None:
    """Return what was written down of the data in a study's directory, if that is here."""
    if directory is None:
        return None
    try:
        found = json.loads((directory / "data" / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, Mapping) else None


def test_scores(study: Study, chosen: Chosen) -> Mapping[str, Any] | None:
    """Return what is known of a model on the test split, if that was opened for this model."""
    evaluation = study.user_attrs.get(EVALUATION)
    whose = (chosen.trial.number, chosen.number)
    if not isinstance(evaluation, Mapping) or (evaluation["trial"], evaluation["run"]) != whose:
        return None
    return evaluation


def check_place(out: Path) -> Path:
    """Return where ``out`` really is, if a model may be written there.

    Raises:
        InputError: It is a file, or holds something that hpo did not export.
    """
    place = out.expanduser().resolve()
    if place.exists() and not place.is_dir():
        raise InputError(f"--out {out} is a file; name a directory.")
    if place.is_dir() and any(place.iterdir()) and not (place / MARKER).is_file():
        raise InputError(
            f"--out {out} is not empty, and was not exported by hpo (it has no {MARKER}); name a "
            "new directory, or an empty one."
        )
    return place


def write_model(model: str, place: Path, card: Card, say: Callable[[str], None]) -> None:
    """Put a model and its card to ``place``, whole or not at all; say where it is.

    Args:
        model: A directory of this machine, or ``modal://VOLUME/PATH``.
        place: Where to; what is there is replaced.
        card: What its card says.
        say: Takes what was done, line by line.

    Raises:
        InputError: The model is no SentenceTransformer or cannot be had, or the place cannot be
            written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
        try:
            fresh = scratch / "new"
            bring(model, fresh, lambda line: say(f"      {line}"))
            if not (fresh / "modules.json").is_file():
                raise InputError(
                    f"{model} holds no modules.json: it is no SentenceTransformer directory, and "
                    "cannot be exported as one."
                )
            (fresh / "README.md").write_text(render(card), encoding="utf-8")
            (fresh / MARKER).write_text(_facts(card) + "\n", encoding="utf-8")
            _replace(place, fresh, scratch / "old")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"cannot write the model to {place} ({error.strerror or error}); make room, or name "
            "another directory with --out."
        ) from error
    for line in Published(model, place).lines("", ""):
        say(line)


def _replace(place: Path, fresh: Path, old: Path) -> None:
    """Put ``fresh`` to ``place``; what was there stays if that fails, and else becomes ``old``."""
    if place.exists():
        os.replace(place, old)
    try:
        os.replace(fresh, place)
    except BaseException:
        if old.exists():
            os.replace(old, place)
        raise


def _facts(card: Card) -> str:
    facts = {
        **{name.replace(" ", "_"): value for name, value in card.made.items()},
        "params": shareable(card),
        "metrics": dict(card.metrics),
        "data": card.data["content"] if card.data is not None else None,
    }
    return to_json(facts, indent=2)
