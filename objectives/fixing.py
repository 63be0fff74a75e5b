"""One point of the search space as people give it: complete, and nothing that has no effect.

A search draws what it is not told. A single training run must not: whoever forgets a parameter
would get a model by a default that they never chose. So here every parameter is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from objectives.space import (
    PARAMETERS,
    Choices,
    SpaceError,
    Value,
    draw,
    make_space,
    read_domain,
    takes,
)

BASE_MODEL = "base_model"
NARROWED = "dimension_up_to_"
"""Begins the name under which narrower models of a study draw their ``dimension``."""


def fix_point(
    params: Mapping[str, Any], dimension_of: Callable[[str], int]
) -> tuple[str, dict[str, Value]]:
    """Return the base model and the values of all other parameters that a trial with it has.

    Args:
        params: Parameters by the names that a trial has.
        dimension_of: Looks up the dimension of a base model; raises if there is no such model.

    Raises:
        SpaceError: A parameter is missing, unknown or without effect, or cannot have its value.
    """
    given = {_plain(name): value for name, value in params.items()}
    base_model = given.pop(BASE_MODEL, None)
    if base_model is not None and not isinstance(base_model, str):
        raise SpaceError(f"space: {BASE_MODEL} cannot be {base_model!r}; it takes {_taken()}")
    values = {name: _value(name, value) for name, value in given.items()}
    # Without the model, what depends on its width cannot be asked for.
    dimension = dimension_of(base_model) if base_model else int(values.get("dimension", 1))
    asked = _asked(values, base_model or "", dimension)
    missing = [name for name in asked if name not in values]
    if "tuning" in missing:
        missing = ["tuning"]  # which others there are depends on it
    if base_model is None:
        missing = [BASE_MODEL, *missing]
    if missing:
        listed = "; ".join(f"{name} ({_taken(name)})" for name in missing)
        raise SpaceError(f"space: a training run needs every parameter; missing: {listed}")
    unused = [name for name in values if name not in asked]
    if unused:
        raise SpaceError(
            f"space: {', '.join(unused)} would have no effect here (tuning={values['tuning']}, "
            f"dimension={values['dimension']} of {dimension}); leave it out"
        )
    assert base_model is not None
    return base_model, values


def _plain(name: str) -> str:
    return "dimension" if name.startswith(NARROWED) else name


def _taken(name: str = BASE_MODEL) -> str:
    if name == BASE_MODEL:
        return "a Hugging Face id or a local path"
    return takes(PARAMETERS[name])


def _value(name: str, value: Any) -> Value:
    if name not in PARAMETERS:
        raise SpaceError(
            f"space: there is no parameter {name!r}; there are {BASE_MODEL}, "
            f"{', '.join(PARAMETERS)}"
        )
    try:
        domain = read_domain(name, [value])
    except SpaceError:
        raise SpaceError(f"space: {name} cannot be {value!r}; it takes {_taken(name)}") from None
    assert isinstance(domain, Choices)
    return domain.values[0]


def _asked(values: Mapping[str, Value], base_model: str, dimension: int) -> list[str]:
    """Return the parameters that a trial with ``values`` has, without the base model.

    Raises:
        SpaceError: The model has not so many dimensions.
    """
    space = make_space({})
    fixed = {name: Choices((value,)) for name, value in values.items()}
    space = replace(space, domains={**space.domains, **fixed}, given=frozenset(fixed))
    trial = _Asked()
    draw(trial, space, [base_model], {base_model: dimension})
    return [name for name in trial.names if name != BASE_MODEL]


class _Asked:
    """A trial that notes what it is asked for, and answers with the first value that there is."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.names.append(name)
        return choices[0]

    def suggest_float(self, name: str, low: float, high: float, **how: Any) -> float:
        self.names.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, **how: Any) -> int:
        self.names.append(name)
        return low
