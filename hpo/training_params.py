"""What a single training run is to do: its parameters, its objective, its data and its seed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from hpo.attempts import trial_seed
from hpo.errors import InputError
from hpo.exporting import find_trial
from hpo.objective import Objective, load_objective
from hpo.opening import BUILT_IN
from hpo.protocol import ObjectiveSpec
from hpo.queries import Found
from hpo.record import RECORD, StudyRecord

BEST = "best"
"""The word that stands for the parameters of a study's best trial."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for.

    Attributes:
        params: ``best``, the number of a trial, or a file of parameters.
        data: Labelled pairs instead of the study's; ``None`` for those.
        model: A base model instead of that of the parameters.
        seed: The seed of training; ``None`` for the trial's own, or 0 with a file.
    """

    params: str
    data: str | None = None
    model: str | None = None
    seed: int | None = None

    @property
    def names_trial(self) -> bool:
        """Whether the parameters are those of a trial."""
        return self.params == BEST or self.params.isdecimal()

    @property
    def needs_study(self) -> bool:
        """Whether nothing can be done without a study."""
        return self.names_trial or self.data is None


@dataclass(frozen=True)
class Point:
    """Parameters with what they were drawn from."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Settled:
    """A training run that can begin.

    Attributes:
        objective: The objective; not prepared yet if ``directory`` is ``None``.
        reference: How it was found.
        fixed: Whether its space is the parameters; else those are the trial's.
        trial: The trial that the parameters come from, if they come from one.
        seed: The seed of training.
        split_seed: The seed of the splits of new data.
        directory: The study's directory, whose data is used; ``None`` for data of its own.
    """

    objective: Objective
    reference: ObjectiveSpec
    fixed: bool
    trial: FrozenTrial | None
    seed: int
    split_seed: int
    directory: Path | None

    def spec(self, objective: Objective) -> ObjectiveSpec:
        """Return how a worker finds ``objective``: this one, or what it is once prepared."""
        if self.reference.options is None:
            return self.reference
        options: Callable[[], dict[str, Any]] = objective.options  # type: ignore[attr-defined]
        return self.reference.model_copy(update={"options": options()})

    def draw(self, objective: Objective) -> Point:
        """Return the parameters as a trial of ``objective``, this one or once prepared, has them.

        Raises:
            InputError: They do not fit the data.
        """
        if not self.fixed:
            assert self.trial is not None
            return Point(self.trial.params, self.trial.distributions)
        drawn = optuna.create_study(sampler=RandomSampler(seed=0)).ask()  # in memory
        suggest: Callable[[Any], Any] = objective.suggest  # type: ignore[attr-defined]
        try:
            suggest(drawn)
        except ValueError as error:  # such as more pairs than there are
            raise _refused("--params", error) from error
        return Point(drawn.params, drawn.distributions)


def settle(found: Found | None, wanted: Wanted) -> Settled:
    """Find out what a training run is to do.

    Args:
        found: The study; ``None`` without one.
        wanted: What somebody asks for.

    Raises:
        InputError: The parameters, the study or its data cannot be used.
    """
    trial = None
    if wanted.names_trial:
        assert found is not None
        trial = find_trial(found, None if wanted.params == BEST else int(wanted.params))
        params = dict(trial.params)
    else:
        params = read_params(Path(wanted.params))
    if wanted.model is not None:
        params["base_model"] = wanted.model
    record = _record(found)
    reference = _reference(record, wanted)
    objective = _load(reference)
    own = wanted.seed
    if own is None:
        own = trial_seed(record.seed, trial.number) if record is not None and trial else 0
    # The very objective of the trial, where nothing differs from it: so its value comes out again.
    fixed = trial is None or wanted.data is not None or wanted.model is not None
    if fixed:
        objective = _fixed(objective, params, "--params" if trial else wanted.params)
    return Settled(
        objective=objective,
        reference=reference,
        fixed=fixed,
        trial=trial,
        seed=own,
        split_seed=record.seed if record is not None else 0,
        directory=_data_of(record, objective, found) if wanted.data is None else None,
    )


def read_params(path: Path) -> dict[str, Any]:
    """Read parameters from a JSON or TOML file: by name, or under ``params``.

    So the output of ``hpo best --json`` and the hpo.json of an exported model will do.

    Raises:
        InputError: There is no such file, or it holds no parameters.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise InputError(
            f"--params {path}: there is no such file; give one, or {BEST}, or a trial's number."
        ) from None
    except OSError as error:
        raise InputError(f"--params {path}: {error.strerror}.") from None
    except ValueError as error:  # of both formats, and text that is not UTF-8
        raise InputError(f"--params {path} is neither valid JSON nor *.toml: {error}.") from None
    inner = found.get("params", found) if isinstance(found, dict) else found
    if not isinstance(inner, dict):
        raise InputError(
            f"--params {path}: expected an object of parameters by name, such as "
            '{"base_model": "all-MiniLM-L6-v2", …}.'
        )
    return dict(inner)


def _record(found: Found | None) -> StudyRecord | None:
    if found is None:
        return None
    if RECORD not in found.study.user_attrs:
        raise InputError(
            f"study {found.study.study_name!r} was not run by hpo: nothing says what its trials do."
        )
    return StudyRecord.of(found.study)


def _reference(record: StudyRecord | None, wanted: Wanted) -> ObjectiveSpec:
    """Return where the study's objective is found, with other data if that is wanted."""
    path = (str(Path.cwd()),)
    if record is None:
        return ObjectiveSpec(reference=BUILT_IN, options={"data": wanted.data}, path=path)
    if record.objective is None:
        raise InputError(
            "the study's objective has no name by which it could be found: train where it is "
            "defined."
        )
    options = record.options
    if wanted.data is not None:
        if "data" not in (options or {}):
            raise InputError(
                f"--data: the study's objective {record.objective} takes no data; leave it out."
            )
        options = {**(options or {}), "data": wanted.data, "resolved": None}
    return ObjectiveSpec(reference=record.objective, options=options, path=path)


def _load(spec: ObjectiveSpec) -> Objective:
    try:
        return load_objective(spec)
    except InputError:
        raise
    except ValueError as error:  # the objective's own refusal of its options
        raise InputError(str(error)) from error


def _fixed(objective: Objective, params: Mapping[str, Any], where: str) -> Objective:
    """Return ``objective`` with these parameters and no others."""
    fixed = getattr(objective, "fixed", None)
    if fixed is None:
        raise InputError(
            f"{where}: the objective {type(objective).__name__} cannot be given parameters (it has "
            f"no method 'fixed'); only those of a trial can be run again: --params {BEST}."
        )
    try:
        made: Objective = fixed(params)
    except ValueError as error:
        raise _refused(where, error) from error
    return made


def _refused(where: str, error: ValueError) -> InputError:
    said = str(error)
    return InputError(f"{where}: {said.removeprefix('space: ')}.")


def _data_of(record: StudyRecord | None, objective: Objective, found: Found | None) -> Path:
    """Return the directory of a study whose data is on this machine."""
    assert record is not None
    assert found is not None
    directory = Path(record.directory)
    if hasattr(objective, "prepare") and not (directory / "data").is_dir():
        raise InputError(
            f"the data of study {found.study.study_name!r} is not in {directory} on this machine: "
            "give the pairs with --data."
        )
    return directory
