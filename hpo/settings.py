"""The settings of a run: defaults < sweep.toml < environment < flags.

A setting has one name everywhere: ``max_failures`` in Python and sweep.toml, ``--max-failures`` as
a flag, ``HPO_MAX_FAILURES`` in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)

from hpo.errors import InputError
from hpo.protocol import Direction
from hpo.requirements import parse_requirements

CONFIG_FILE = "sweep.toml"
"""Read from the current directory if it is there and no other is named."""

ENVIRONMENT_PREFIX = "HPO_"

_FLAGS = {"from_study": "--from"}
"""Flags that are not called like their setting, as that word is taken in Python."""

_TABLES = ("space", "rates")
"""Settings that are tables, which a variable of the environment cannot hold."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_seconds(value: Any) -> Any:
    """Return ``90``, ``"90"``, ``"30m"`` or ``"1h30m"`` as seconds.

    Raises:
        ValueError: It is none of these.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("write seconds, or a duration such as 90s, 30m, 2h or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _several(value: Any) -> Any:
    """Let one string stand for a list: ``"a,b"`` from the environment or a flag."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            "a study's name is a directory's name, too: use letters, digits, '.', '_' and '-', and "
            "begin with a letter or a digit"
        )
    return name


def _requirements(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return requirements as they are written in the database; refuse what is none."""
    return tuple(str(each) for each in parse_requirements(texts))


Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """What a run is to do, checked.

    Attributes:
        trials: The study's total of finished trials (completed or pruned), over all runs.
        study: The study's name; by default that of the data or the objective.
        storage: Database URL: ``sqlite:///file.db`` or ``postgresql://user:password@host/name``.
        executor: Where trials run: ``modal`` GPU functions, ``local`` worker processes, ``inline``
            in this process; ``auto`` is Modal where a Modal token is configured, else local.
        coordinator: Where the coordinator runs: ``here``, or on ``modal``.
        workers: Trials at once; by default one a GPU, or one a core as memory allows, and ten on
            Modal.
        gpu: GPUs on Modal, the first that is free in this order.
        region: Regions on Modal; empty for any.
        cpu: CPU cores of a trial on Modal.
        memory: Memory of a trial on Modal, in MiB.
        max_cost: Dollars that trials on Modal may cost, over all runs of the study.
        include: Further local modules, packages or files that trials on Modal need.
        pip: Further packages that trials on Modal need.
        secret: Names of Modal Secrets whose variables trials on Modal get.
        rates: Prices on Modal that replace the known ones, in dollars per second.
        data: Labelled pairs: a file, a Hugging Face dataset id, or ``demo``.
        models: Base models: Hugging Face ids or local paths; ``name@layers=3`` keeps three layers.
        objective: ``package.module:function`` instead of the built-in fine-tuning.
        direction: ``minimize`` or ``maximize``, once for each value the objective returns.
        space: Changes to the built-in search space, by parameter.
        timeout: Seconds (or ``30m``, ``2h``) after which no new trial starts.
        target: An objective value that ends the search once a feasible trial reaches it.
        patience: So many finished trials without a better one end the search.
        trial_timeout: Seconds (or ``30m``) that one attempt of a trial may run; 30 minutes on Modal
            unless given.
        require: What a trial's metrics must meet to win: ``recall>=0.5``.
        design: ``search`` lets a sampler choose what to try; ``grid`` tries every combination of
            the levels that parameters have.
        finalists: So many of the best configurations run again with new seeds before one wins; by
            default 3 where the objective can evaluate a winner, else none.
        seeds: With so many new seeds each.
        from_study: A study of the same storage whose compatible trials a new study begins with.
        seed: Seed of the sampler, of the splits and of every trial.
        sampler: Name of Optuna's sampler.
        pruner: Name of Optuna's pruner.
        out: Directory for what the study leaves besides the database.
        keep: How many of the best trials keep their weights.
        retries: Further attempts for a trial whose worker was lost.
        max_failures: So many failed trials stop the study.
        db_grace: Seconds (or ``10m``) that the database may be away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(64, gt=0)
    study: Annotated[str, AfterValidator(_study_name)] | None = None
    storage: str = "sqlite:///hpo.db"
    executor: Literal["auto", "modal", "local", "inline"] = "auto"
    coordinator: Literal["here", "modal"] = "here"
    workers: int | None = Field(None, gt=0)
    gpu: Annotated[Names, Field(min_length=1)] = ("L4",)
    region: Names = ()
    cpu: float = Field(2.0, gt=0, le=64)
    memory: int = Field(8192, ge=512, le=344_064)
    max_cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    include: Names = ()
    pip: Names = ()
    secret: Names = ()
    rates: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    data: str = "demo"
    models: Names | None = None
    objective: str | None = None
    direction: Annotated[tuple[Direction, ...], BeforeValidator(_several)] = ()
    space: dict[str, Any] = {}
    timeout: Seconds | None = None
    target: float | None = Field(None, allow_inf_nan=False)
    patience: int | None = Field(None, gt=0)
    trial_timeout: Seconds | None = None
    require: Annotated[Names, AfterValidator(_requirements)] = ()
    design: Literal["search", "grid"] = "search"
    finalists: int | None = Field(None, ge=0)
    seeds: int = Field(3, gt=0)
    from_study: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    sampler: str = "tpe"
    pruner: str = "median"
    out: Path = Path("runs")
    keep: int = Field(3, gt=0)
    retries: int = Field(3, ge=0)
    max_failures: int = Field(20, gt=0)
    db_grace: Seconds = 600.0
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def source_of(self, name: str) -> str:
        """Return where the setting ``name`` was given, for messages; its name if nowhere."""
        return self._sources.get(name, name)


def check(values: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> Settings:
    """Return ``values`` as settings.

    Args:
        values: Settings by name; the rest keeps its default.
        sources: Where a value came from, for messages: "--trials", "sweep.toml: trials".

    Raises:
        InputError: A name that is none, or a value that cannot be; it says where that came from.
    """
    try:
        settings = Settings.model_validate(dict(values))
        settings._sources.update(sources or {})
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        where = (sources or {}).get(name, name)
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{where}: there is no setting {name!r}; there are "
                f"{', '.join(Settings.model_fields)}."
            ) from None
        rule = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {rule}, but got {first['input']!r}.") from None


def load(
    flags: Mapping[str, Any],
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Gather settings from sweep.toml, the environment and flags, the later over the earlier.

    Args:
        flags: What was given on the command line.
        config: The file to read; by default sweep.toml in the current directory, if there is one.
        environment: Environment variables.

    Raises:
        InputError: A file that cannot be read, or a setting that cannot be.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if config is None and Path(CONFIG_FILE).exists():
        config = Path(CONFIG_FILE)
    if config is not None:
        for name, value in _read_toml(config).items():
            values[name], sources[name] = value, f"{config}: {name}"
    for name in Settings.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if name not in _TABLES and environment.get(variable):
            values[name], sources[name] = environment[variable], variable
    for name, value in flags.items():
        flag = _FLAGS.get(name) or "--" + name.replace("_", "-")
        if name == "space" and name in values:
            values[name], sources[name] = {**values[name], **value}, f"{sources[name]} or {flag}"
        else:
            values[name], sources[name] = value, flag
    return check(values, sources)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--config {path}: there is no such file.") from None
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
