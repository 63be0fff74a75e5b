"""Enqueueing a trial from outside, whether a coordinator runs or not.

This is the only write that others than the coordinator make, and it is safe beside it: it adds the
rows of one new trial in one transaction, and touches no other trial. The database gives it the next
number, and the coordinator takes it up by changing its state from WAITING, which only one can do.

Optuna takes an enqueued value as it comes: outside the range it warns and uses it, and a name that
the objective never asks for is dropped in silence. So what cannot be right is refused here.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from hpo.errors import InputError
from hpo.objective import load_objective
from hpo.record import RECORD, StudyRecord
from hpo.text import parameters

LARGEST = sys.float_info.max

FIXED_PARAMS = "fixed_params"
"""The system attribute in which Optuna keeps the parameters of an enqueued trial."""

DRAWS = 200
"""So many random trials show which parameters an objective has: a branch that one in twenty takes
stays unseen once in 30,000 times. They take a quarter of a second (measured)."""

Readings = Mapping[str, Sequence[Any]]
"""Parameters as they were given: the values that the text of each can stand for, best first."""

Space = dict[str, list[BaseDistribution]]
"""Parameters by name, with the distributions they were drawn from."""


@dataclass(frozen=True)
class Enqueued:
    """A trial that waits.

    Attributes:
        number: The trial's number.
        params: The parameters it was given.
        unchecked: Why they could not be checked; empty if they were.
    """

    number: int
    params: dict[str, Any]
    unchecked: str = ""


def parse_params(texts: Iterable[str]) -> Readings:
    """Read parameters, each text a JSON object or ``NAME=VALUE``.

    Raises:
        InputError: A text is neither, names nothing, or names a parameter again.
    """
    found: dict[str, Sequence[Any]] = {}
    for text in texts:
        for name, readings in _parse(text):
            if name in found:
                raise InputError(f"--params: {name} is given twice.")
            found[name] = readings
    if not found:
        raise InputError("--params: give at least one parameter, such as learning_rate=3e-5.")
    return found


def _parse(text: str) -> list[tuple[str, Sequence[Any]]]:
    if text.lstrip().startswith("{"):
        try:
            return [(name, [value]) for name, value in json.loads(text).items()]
        except ValueError as error:
            raise InputError(f"--params {text!r} is not valid JSON: {error}.") from error
    name, separator, value = (part.strip() for part in text.partition("="))
    if not (name and separator):
        raise InputError(
            f"--params {text!r}: write NAME=VALUE, such as learning_rate=3e-5, or a JSON object."
        )
    try:
        return [(name, [json.loads(value), value])]
    except ValueError:  # a word
        return [(name, [value])]


def enqueue(study: Study, given: Readings) -> Enqueued:
    """Add a waiting trial with these parameters; the sampler draws those that are missing.

    Args:
        study: The study.
        given: Some or all parameters.

    Raises:
        InputError: A parameter that the study does not have, a value that it cannot take, or
            parameters that wait already; nothing was written.
    """
    trials = study.get_trials(deepcopy=False)
    space: Space = {}
    for trial in trials:
        _add(space, trial.distributions)
    suggest = _suggest_of(study)
    if suggest is not None:
        for name, distributions in _draw(suggest, {}).items():
            space[name] = distributions
    unchecked = "" if space else "the study has no trial yet that shows its parameters"
    params = (
        {name: _fit(study, space, name, readings) for name, readings in given.items()}
        if space
        else {name: readings[0] for name, readings in given.items()}
    )
    if suggest is not None:
        _check_together(suggest, params)
    for trial in trials:
        if trial.state is TrialState.WAITING and trial.system_attrs.get(FIXED_PARAMS) == params:
            raise InputError(
                f"trial {trial.number} waits with exactly these parameters already: "
                f"{parameters(params)}."
            )
    study.enqueue_trial(params)
    # Optuna does not say which number it became; a coordinator may have taken it up meanwhile.
    number = next(
        trial.number
        for trial in study.get_trials(deepcopy=False)[len(trials) :]
        if trial.system_attrs.get(FIXED_PARAMS) == params
    )
    return Enqueued(number, params, unchecked)


def _add(space: Space, distributions: Mapping[str, BaseDistribution]) -> None:
    for name, distribution in distributions.items():
        known = space.setdefault(name, [])
        if distribution not in known:
            known.append(distribution)


def _suggest_of(study: Study) -> Callable[[Any], Any] | None:
    """Return how the study's objective draws parameters, if it was made from recorded options."""
    if RECORD not in study.user_attrs:
        return None  # of plain Optuna
    record = StudyRecord.of(study)
    spec = record.spec()
    if spec is None or spec.options is None:
        return None
    try:
        found: Callable[[Any], Any] | None = getattr(load_objective(spec), "suggest", None)
    except ValueError as error:
        raise InputError(
            f"the objective of study {study.study_name!r}, which knows its parameters, cannot be "
            f"loaded here: {error} Enqueue where the study can run."
        ) from error
    return found


def _draw(suggest: Callable[[Any], Any], fixed: dict[str, Any]) -> Space:
    """Return what an objective draws in trials that have the parameters ``fixed``.

    Raises:
        InputError: The objective cannot.
    """
    space: Space = {}
    study = optuna.create_study(sampler=RandomSampler(seed=0))  # in memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values outside a range, which are checked here
        for _ in range(DRAWS):
            study.enqueue_trial(fixed)
            trial = study.ask()
            try:
                suggest(trial)
            except Exception as error:  # whatever somebody else's objective raises
                raise InputError(
                    f"the objective cannot draw a trial with {parameters(fixed) or 'nothing'} "
                    f"given: {type(error).__name__}: {error}"
                ) from error
            _add(space, trial.distributions)
    return space


def _check_together(suggest: Callable[[Any], Any], params: dict[str, Any]) -> None:
    """Refuse a parameter that no trial would have which has the others, too.

    Raises:
        InputError: There is one.
    """
    unused = params.keys() - _draw(suggest, params).keys()
    if unused:
        name = min(unused)
        others = parameters({key: params[key] for key in params if key != name})
        raise InputError(
            f"--params: a trial with {others} has no {name}; leave it out, or change the others."
        )


def _fit(study: Study, space: Space, name: str, readings: Sequence[Any]) -> Any:
    """Return the value of a parameter that its text stands for.

    Raises:
        InputError: The study has no such parameter, or it cannot take the value.
    """
    if name not in space:
        raise InputError(
            f"--params: study {study.study_name!r} has no parameter {name!r} so far; it has "
            f"{', '.join(sorted(space))}."
        )
    for reading in readings:
        for distribution in reversed(space[name]):
            value = _taken(distribution, reading)
            if value is not None:
                return value[0]
    accepted = " or ".join(dict.fromkeys(map(_accepted, space[name])))
    raise InputError(f"--params: {name} cannot be {readings[0]!r}; it takes {accepted}.")


def _taken(distribution: BaseDistribution, given: Any) -> tuple[Any] | None:
    """Return ``given`` as a value of ``distribution``, in a tuple; ``None`` if it is none."""
    if isinstance(distribution, CategoricalDistribution):
        # True equals 1, and is not what is meant by it.
        kind = isinstance(given, bool)
        for choice in distribution.choices:
            if choice == given and isinstance(choice, bool) is kind:
                return (choice,)
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    if not -LARGEST <= given <= LARGEST:  # NaN, infinite, or a whole number beyond every float
        return None
    if isinstance(distribution, IntDistribution):
        if given != int(given):
            return None
        given = int(given)
    else:
        given = float(given)
    try:
        create_trial(params={"x": given}, distributions={"x": distribution}, value=0.0)
    except ValueError:  # Optuna's own check of low, high and step
        return None
    return (given,)


def _accepted(distribution: BaseDistribution) -> str:
    """Say what values a distribution has."""
    match distribution:
        case CategoricalDistribution():
            return "one of " + ", ".join(map(repr, distribution.choices))
        case FloatDistribution() | IntDistribution():
            kind = "a whole number" if isinstance(distribution, IntDistribution) else "a number"
            step = distribution.step if distribution.step not in (None, 1) else None
            steps = f" in steps of {step:g}" if step is not None else ""
            return f"{kind} from {distribution.low:g} to {distribution.high:g}{steps}"
        case _:
            return str(distribution)
