"""The search space of the built-in objective: what it is by default, and how people change it.

It is define-by-run: which parameters a trial has depends on those drawn before (a head on cached
embeddings has a learning rate of its own, and no dropout). A parameter's distribution never changes
under one name within a study, since Optuna's samplers and views rely on that; where a range must
differ, the name does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["float", "int", "name"]
Value = str | int | float


class SpaceError(ValueError):
    """A change to the search space that cannot be, with what is accepted."""


@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, both included.

    Attributes:
        low: The lowest value.
        high: The highest value.
        log: Draw the logarithm uniformly; not together with ``step``.
        step: Only low, low + step, …; ``None`` for every value.
        whole: Whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def __str__(self) -> str:
        """Return the range as people write it."""
        step = f" step {self.step:g}" if self.step is not None else ""
        log = " (log)" if self.log else ""
        return f"{_number(self.low)} .. {_number(self.high)}{step}{log}"


@dataclass(frozen=True)
class Choices:
    """One of ``values``; a single value fixes the parameter, which is recorded all the same."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        """Return the choices as people write them."""
        return ", ".join(_number(value) for value in self.values)


Domain = Range | Choices


@dataclass(frozen=True)
class Parameter:
    """A parameter of the space, and which values it can take at all.

    Attributes:
        kind: The type of its values.
        default: Where trials draw it from unless told otherwise.
        about: What it does, for people.
        low: The smallest value that makes sense (numbers).
        high: The largest value that makes sense (numbers).
        log: Whether a range that people give is drawn by its logarithm unless they say otherwise.
        above: ``low`` itself is excluded.
        names: All accepted values (names).
    """

    kind: Kind
    default: Domain
    about: str
    low: float = 0.0
    high: float = math.inf
    log: bool = False
    above: bool = False
    names: tuple[str, ...] = ()


LOSSES = ("OnlineContrastive", "Contrastive", "CoSENT", "AnglE", "CosineSimilarity")
TUNINGS = ("full", "frozen", "head")
PROJECTIONS = ("truncate", "dense")

PARAMETERS: dict[str, Parameter] = {
    "tuning": Parameter(
        "name",
        Choices(TUNINGS),
        "full: all weights; frozen: the upper layers only; head: a linear map of cached embeddings",
        names=TUNINGS,
    ),
    "num_samples": Parameter(
        "int",
        Choices((1500, 3000, 6000)),
        "training pairs, a prefix of one fixed shuffle",
        low=1,
    ),
    "head_num_samples": Parameter(
        "int",
        Choices((1000, 2000, 4000)),
        "the same for a head, which costs next to nothing once the texts are embedded",
        low=1,
    ),
    "dimension": Parameter(
        "int", Choices((64, 128, 256, 384, 512, 768, 1024)), "length of the embeddings", low=1
    ),
    "projection": Parameter(
        "name",
        Choices(PROJECTIONS),
        "how a smaller dimension is had: by truncation, or by a linear map that is trained",
        names=PROJECTIONS,
    ),
    "loss": Parameter("name", Choices(LOSSES), "what training minimises", names=LOSSES),
    "learning_rate": Parameter(
        "float",
        Range(3e-5, 3e-4, log=True),
        "of full and frozen tuning",
        high=1,
        log=True,
        above=True,
    ),
    "head_learning_rate": Parameter(
        "float", Range(3e-4, 1e-2, log=True), "of a head", high=10, log=True, above=True
    ),
    "epochs": Parameter("int", Choices((1,)), "passes over the training pairs", low=1),
    "head_epochs": Parameter("int", Choices((5, 10, 20)), "passes when training a head", low=1),
    "batch_size": Parameter("int", Choices((16, 32, 64)), "pairs a step", low=2),
    "warmup": Parameter(
        "float",
        Choices((0.0, 0.1, 0.2)),
        "share of the run over which the learning rate rises; it then falls to zero",
        high=1,
    ),
    "dropout": Parameter("float", Choices((0.0, 0.1)), "of the layers that are trained", high=0.9),
    "frozen_share": Parameter(
        "float",
        Choices((0.33, 0.5)),
        "share of the layers, from the embeddings up, that frozen tuning leaves alone",
        high=0.95,
    ),
}
"""Every parameter but ``base_model``, in the order in which a trial draws them."""

SMALL_SAMPLE = 1500
"""A default ``num_samples`` up to this is offered even where it is most of the training pairs."""


@dataclass(frozen=True)
class Configuration:
    """What one trial does: a point of the space, with what does not apply left ``None``.

    ``num_samples``, ``learning_rate`` and ``epochs`` are those of the head where ``tuning`` is
    ``"head"``.
    """

    base_model: str
    tuning: str
    num_samples: int
    dimension: int
    projection: str | None
    loss: str
    learning_rate: float
    epochs: int
    batch_size: int
    warmup: float
    dropout: float | None
    frozen_share: float | None


@dataclass(frozen=True)
class Space:
    """Where each parameter is drawn from.

    Attributes:
        domains: By parameter name, in the order of :data:`PARAMETERS`.
        given: The parameters that a person set.
    """

    domains: Mapping[str, Domain]
    given: frozenset[str] = frozenset()


def make_space(overrides: Mapping[str, Any]) -> Space:
    """Return the default space with ``overrides``.

    An override is ``{"low": …, "high": …, "log": …, "step": …}``, a list of choices, one value, or
    text as :func:`parse_override` reads it.

    Raises:
        SpaceError: An unknown name, or a value that the parameter cannot take.
    """
    domains = {name: parameter.default for name, parameter in PARAMETERS.items()}
    for name, given in overrides.items():
        if name not in PARAMETERS:
            raise SpaceError(
                f"space: there is no parameter {name!r}; there are base_model, "
                f"{', '.join(PARAMETERS)}"
            )
        domains[name] = read_domain(name, given)
    return Space(domains, frozenset(overrides))


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``name=value`` from a command line into a name and what :func:`make_space` takes.

    The value is ``low..high``, a comma-separated list of choices, or one value.

    Raises:
        SpaceError: Not of the form ``name=value``.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise SpaceError(
            f"space: expected name=value, as in learning_rate=1e-5..1e-3, loss=CoSENT,AnglE or "
            f"dimension=256, but got {text!r}"
        )
    return name, value


def read_domain(name: str, given: Any) -> Domain:
    """Read one override of the parameter ``name``; see :func:`make_space`.

    Raises:
        SpaceError: A value that the parameter cannot take.
    """
    parameter = PARAMETERS[name]
    if isinstance(given, str):
        given = _from_text(given)
    if isinstance(given, Mapping):
        return _range(name, parameter, given)
    values = list(given) if isinstance(given, list | tuple) else [given]
    if not values:
        raise SpaceError(f"space: {name} has an empty list; {_accepted(parameter)}")
    checked = tuple(_value(name, parameter, value) for value in values)
    if len(set(checked)) < len(checked):
        raise SpaceError(f"space: {name} names a choice twice: {Choices(checked)}")
    return Choices(checked)


def _from_text(text: str) -> Any:
    low, dots, high = text.partition("..")
    if dots:
        return {"low": low.strip(), "high": high.strip()}
    return [part.strip() for part in text.split(",")]


def _range(name: str, parameter: Parameter, given: Mapping[str, Any]) -> Range:
    if parameter.kind == "name":
        raise SpaceError(f"space: {name} cannot be a range; {_accepted(parameter)}")
    unknown = set(given) - {"low", "high", "log", "step"}
    if unknown or not {"low", "high"} <= set(given):
        raise SpaceError(
            f"space: {name} must be a table of low, high and optionally log or step, "
            f"got {dict(given)!r}"
        )
    low, high = (_number_of(name, parameter, given[key]) for key in ("low", "high"))
    if low > high:
        raise SpaceError(
            f"space: {name} must have low <= high, but got low={_number(low)}, "
            f"high={_number(high)}; exchange them"
        )
    step = given.get("step")
    if step is not None and not (_is_number(step) and 0 < step < math.inf):
        raise SpaceError(f"space: {name}: step must be a number above 0, got {step!r}")
    whole = parameter.kind == "int"
    if whole and step is not None and step != int(step):
        raise SpaceError(f"space: {name}: step must be a whole number, got {step!r}")
    log = given.get("log", parameter.log and step is None and low > 0)
    if not isinstance(log, bool):
        raise SpaceError(f"space: {name}: log must be true or false, got {log!r}")
    if log and (step is not None or low <= 0):
        raise SpaceError(
            f"space: {name}: log goes with a low above 0 and without a step, but got "
            f"low={_number(low)}, step={step}; leave one out"
        )
    return Range(low, high, log=log, step=step, whole=whole)


def _value(name: str, parameter: Parameter, value: Any) -> Value:
    if parameter.kind != "name":
        return _number_of(name, parameter, value)
    if value not in parameter.names:
        raise SpaceError(f"space: there is no {name} {value!r}; {_accepted(parameter)}")
    return str(value)


def _number_of(name: str, parameter: Parameter, value: Any) -> int | float:
    try:
        number = float(value) if isinstance(value, str) or _is_number(value) else math.nan
    except ValueError:
        number = math.nan
    fits = math.isfinite(number) and parameter.low <= number <= parameter.high
    excluded = parameter.above and number == parameter.low
    fractional = parameter.kind == "int" and not number.is_integer()
    if not fits or excluded or fractional:
        raise SpaceError(f"space: {name} cannot be {value!r}; {_accepted(parameter)}")
    return int(number) if parameter.kind == "int" else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _accepted(parameter: Parameter) -> str:
    if parameter.kind == "name":
        return f"it is one or several of {', '.join(parameter.names)}"
    return f"it takes {takes(parameter)}: a range (low..high), a list of choices, or one value"


def takes(parameter: Parameter) -> str:
    """Say which values a parameter can have at all."""
    if parameter.kind == "name":
        return f"one of {', '.join(parameter.names)}"
    what = "whole numbers" if parameter.kind == "int" else "numbers"
    lower = f"above {parameter.low:g}" if parameter.above else f"from {parameter.low:g}"
    upper = "up" if parameter.high == math.inf else f"to {parameter.high:g}"
    return f"{what} {lower} {upper}"


def fit_to_data(space: Space, train_pairs: int) -> Space:
    """Return the space with sample sizes that ``train_pairs`` can serve.

    Of the default ``num_samples`` those are kept that take at most a quarter of the training pairs
    or :data:`SMALL_SAMPLE` (a search is for choosing; its winner can be trained on more), of the
    default ``head_num_samples`` those that fit; all training pairs where that leaves none.

    Raises:
        SpaceError: A person asked for more pairs than there are.
    """
    limits = {
        "num_samples": min(train_pairs, max(SMALL_SAMPLE, train_pairs // 4)),
        "head_num_samples": train_pairs,
    }
    domains = dict(space.domains)
    for name, limit in limits.items():
        values = bounds(domains[name])
        if name not in space.given:
            fitting = tuple(value for value in values if value <= limit)
            domains[name] = Choices(fitting or (train_pairs,))
        elif max(values) > train_pairs:
            raise SpaceError(
                f"space: {name} asks for up to {max(values):,.0f} pairs, but the training split "
                f"has {train_pairs:,}; ask for at most {train_pairs:,}, or bring more data"
            )
    return replace(space, domains=domains)


def bounds(domain: Domain) -> tuple[float, ...]:
    """Return the numbers that ``domain`` chooses from, or its lowest and highest."""
    if isinstance(domain, Range):
        return domain.low, domain.high
    return tuple(value for value in domain.values if not isinstance(value, str))


def dimensions_for(space: Space, dimensions: Mapping[str, int]) -> dict[str, tuple[str, Domain]]:
    """Return, by base model, the name and the domain of its ``dimension``.

    A model can give no more dimensions than it has. Where the models of a study differ in that,
    those that cannot give every choice draw theirs under a name of their own
    (``dimension_up_to_384``), because a distribution must not change under one name.

    Args:
        space: The space.
        dimensions: The dimension of each base model.

    Raises:
        SpaceError: A person asked for a dimension that no base model has.
    """
    domain = space.domains["dimension"]
    given = "dimension" in space.given
    widest = max(dimensions.values())
    if given and max(bounds(domain)) > widest:
        raise SpaceError(
            f"space: dimension asks for {domain}, but no base model has more than {widest} "
            f"dimensions; ask for at most {widest}"
        )
    # By default the widest model's own dimension is among the choices.
    whole = domain if given or not isinstance(domain, Choices) else _with(domain, widest)
    found: dict[str, tuple[str, Domain]] = {}
    for model, limit in dimensions.items():
        fitted = _at_most(whole, limit)
        if fitted is None and not given:
            fitted = Choices((limit,))
        if fitted is None:
            raise SpaceError(
                f"space: dimension asks for {domain}, but the embeddings of {model} have {limit} "
                f"dimensions; ask for at most {limit}, or leave this model out"
            )
        if not given and isinstance(fitted, Choices):
            fitted = _with(fitted, limit)
        name = "dimension" if limit == widest or fitted == whole else f"dimension_up_to_{limit}"
        found[model] = (name, fitted)
    return found


def _with(domain: Choices, limit: int) -> Choices:
    """Return the choices up to ``limit``, ``limit`` itself among them."""
    kept = [value for value in domain.values if int(value) <= limit]
    return Choices(tuple(kept) if limit in kept else (*kept, limit))


def _at_most(domain: Domain, limit: int) -> Domain | None:
    if isinstance(domain, Range):
        if domain.low > limit:
            return None
        return replace(domain, high=min(domain.high, limit))
    kept = tuple(value for value in domain.values if int(value) <= limit)
    return Choices(kept) if kept else None


def draw(
    trial: Any, space: Space, models: Sequence[str], dimensions: Mapping[str, int]
) -> Configuration:
    """Draw a trial's parameters, or read those it was given.

    Args:
        trial: An Optuna trial.
        space: The space, fitted to the data.
        models: The base models to choose from.
        dimensions: The dimension of each.
    """
    domains = space.domains

    def suggest(name: str) -> Any:
        return _suggest(trial, name, domains[name])

    base_model = str(trial.suggest_categorical("base_model", tuple(models)))
    tuning = suggest("tuning")
    head = tuning == "head"
    num_samples = int(suggest("head_num_samples" if head else "num_samples"))
    name, domain = dimensions_for(space, dimensions)[base_model]
    dimension = int(_suggest(trial, name, domain))
    smaller = dimension < dimensions[base_model]
    return Configuration(
        base_model=base_model,
        tuning=tuning,
        num_samples=num_samples,
        dimension=dimension,
        # A head is a trained linear map: there is nothing left to choose.
        projection=None if head or not smaller else suggest("projection"),
        loss=suggest("loss"),
        learning_rate=suggest("head_learning_rate" if head else "learning_rate"),
        epochs=int(suggest("head_epochs" if head else "epochs")),
        batch_size=int(suggest("batch_size")),
        warmup=suggest("warmup"),
        dropout=None if head else suggest("dropout"),
        frozen_share=suggest("frozen_share") if tuning == "frozen" else None,
    )


def _suggest(trial: Any, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choices):
        return trial.suggest_categorical(name, domain.values)
    if domain.whole:
        return trial.suggest_int(
            name, int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


def describe(space: Space, models: Sequence[str], dimensions: Mapping[str, int]) -> list[str]:
    """Return the space for people, one line a parameter.

    Args:
        space: The space.
        models: The base models.
        dimensions: The dimension of each, as far as that is known.
    """
    rows: list[tuple[str, Domain, str]] = [("base_model", Choices(tuple(models)), "")]
    for name, domain in space.domains.items():
        about = PARAMETERS[name].about
        if name == "dimension" and dimensions:
            fitted = dict(dimensions_for(space, dimensions).values())
            rows += [(own, narrowed, about) for own, narrowed in fitted.items()]
        else:
            rows.append((name, domain, about))
    wide = max(len(name) for name, _, _ in rows)
    middle = max(len(str(domain)) for _, domain, about in rows if about)
    return [
        f"{name:<{wide}}  {domain!s:<{middle}}  {about}".rstrip() for name, domain, about in rows
    ]


def _number(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
