"""Whether a finished trial is one of a search space: its parameters are put to the space again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial, create_trial


class MisfitError(ValueError):
    """A trial that is none of the space; the text says why, the same for all of that kind."""


def replay(params: dict[str, Any], suggest: Callable[[Any], object]) -> dict[str, BaseDistribution]:
    """Return the distributions that ``suggest`` draws a trial with ``params`` from.

    Args:
        params: The trial's parameters.
        suggest: What an objective offers to sample a trial.

    Raises:
        MisfitError: It asks for others than these, or would not draw one of the values.
    """
    trial = _Replay(params)
    try:
        suggest(trial)
    except MisfitError:
        raise
    except Exception as error:  # whatever people's code makes of parameters it did not expect
        raise MisfitError(
            f"the objective's suggest fails on it ({type(error).__name__}: {error})"
        ) from error
    unasked = sorted(params.keys() - trial.distributions.keys())
    if unasked:
        raise MisfitError(f"it has {', '.join(unasked)}, for which the objective does not ask")
    return trial.distributions


def check_contains(name: str, distribution: BaseDistribution, value: Any) -> None:
    """See that the parameter ``name`` can have ``value``.

    Raises:
        MisfitError: ``distribution`` would never give it.
    """
    try:
        create_trial(value=0.0, params={name: value}, distributions={name: distribution})
    except ValueError:  # Optuna's refusal: of another kind, or out of range
        raise MisfitError(f"{name} lies outside {shown(distribution)}") from None


def shown(distribution: BaseDistribution) -> str:
    """Return a distribution as people write it in a search space."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return ", ".join(map(str, choices))
        case FloatDistribution(low=low, high=high, step=step) if step is not None:
            return f"{low:g}..{high:g} in steps of {step:g}"
        case IntDistribution(low=low, high=high, step=step) if step != 1:
            return f"{low}..{high} in steps of {step}"
        case FloatDistribution(low=low, high=high) | IntDistribution(low=low, high=high):
            return f"{low:g}..{high:g}"
        case _:
            return repr(distribution)


class GivenTrial(FixedTrial):
    """Answers suggestions with given parameters, and hears of each before.

    Args:
        params: The parameters; :meth:`asked` may add to them.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.given = params

    def asked(self, name: str, distribution: BaseDistribution) -> None:
        """Take note that a parameter is asked for; may raise."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Answer as ``optuna.Trial.suggest_float`` would."""
        self.asked(name, FloatDistribution(low, high, log=log, step=step))
        return super().suggest_float(name, low, high, step=step, log=log)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Answer as ``optuna.Trial.suggest_int`` would."""
        self.asked(name, IntDistribution(low, high, log=log, step=step))
        return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Answer as ``optuna.Trial.suggest_categorical`` would."""
        self.asked(name, CategoricalDistribution(choices))
        return super().suggest_categorical(name, choices)


class _Replay(GivenTrial):
    """Refuses where there is no answer."""

    def asked(self, name: str, distribution: BaseDistribution) -> None:
        if name not in self.given:
            raise MisfitError(f"it has no {name}")
        check_contains(name, distribution, self.given[name])
