"""The design of a study: what it tries. A search leaves that to a sampler, a grid tries everything.

A grid knows how many trials it is before the first one, so that comes first: in the header of a
run, in ``--dry-run``, in the worst cost. The combinations are counted by walking through the
objective's ``suggest``; an objective without it shows its parameters only as it runs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
)

from hpo.errors import InputError
from hpo.grid import GRID, GridSampler, levels_of
from hpo.objective import Objective
from hpo.opening import prepare
from hpo.replay import GivenTrial, shown
from hpo.settings import Settings

MOST = 50_000
"""More combinations than this are a slip, such as a range of whole numbers from 1000 to 6000."""


@dataclass(frozen=True)
class Combinations:
    """All combinations of a space.

    Attributes:
        count: How many there are.
        levels: How many levels each parameter has in them, by name.
    """

    count: int
    levels: dict[str, int]

    def __str__(self) -> str:
        """Return their number, and what it is made of."""
        several = {name: count for name, count in self.levels.items() if count > 1}
        plural = "combination" if self.count == 1 else "combinations"
        if not several:
            return f"{self.count:,} {plural}"
        if math.prod(several.values()) == self.count:
            made_of = " × ".join(f"{name} {count}" for name, count in several.items())
        else:
            made_of = ", ".join(f"{name} {count}" for name, count in several.items())
            made_of += "; some apply in their own branch only"
        return f"{self.count:,} {plural} ({made_of})"


def settle(settings: Settings, objective: Objective) -> tuple[Settings, list[str]]:
    """Settle what follows from the design: trials, sampler and pruner.

    Settings that are settled stay as they are.

    Args:
        settings: The settings of a run.
        objective: Its objective, prepared.

    Returns:
        The settings, and lines for people: none for a search.

    Raises:
        InputError: Settings that do not go together, or a parameter without levels.
    """
    given = settings.model_fields_set
    if settings.design == "search":
        if settings.sampler == GRID:
            raise InputError(f"{settings.source_of('sampler')} grid: say --design grid instead.")
        return settings, []
    if "sampler" in given and settings.sampler != GRID:
        raise InputError(
            f"{settings.source_of('sampler')} {settings.sampler} with --design grid: a grid tries "
            "every combination, and no sampler has a choice; leave it out, or use --design search."
        )
    changes: dict[str, Any] = {"sampler": GRID}
    if "pruner" not in given:
        changes["pruner"] = "none"  # who compares all combinations wants all final values
    suggest = getattr(objective, "suggest", None)
    if suggest is None:
        said = (
            "design grid: its combinations are found on the way, as only the objective's code has "
            f"them; at most {settings.trials:,} trials (--trials)"
        )
        return settings.model_copy(update=changes), [said]
    is_listed = "space" in getattr(objective, "search_options", ())
    found = count_combinations(suggest, is_listed)
    trials = min(settings.trials, found.count) if "trials" in given else found.count
    said = f"design grid: {found}"
    if trials < found.count:
        said += f"; {trials:,} of them, drawn evenly by the seed ({_trials_of(settings)})"
    elif "trials" in given and settings.trials > trials:
        said += f"; each runs once, so {_trials_of(settings)} stops there"
    return settings.model_copy(update={**changes, "trials": trials}), [said]


def settle_beforehand(settings: Settings, objective: Objective) -> tuple[Settings, list[str]]:
    """Do as :func:`settle` for an objective that is not prepared yet; writes nothing that stays.

    Raises:
        InputError: As :func:`settle`, or data that cannot be used.
    """
    if settings.design == "search":
        return settle(settings, objective)
    with tempfile.TemporaryDirectory() as scratch:
        prepared, _ = prepare(objective, Path(scratch), settings.seed)
        return settle(settings, prepared)


def count_trials(settings: Settings, study: Study) -> Settings:
    """Return settings whose trials leave out the finished ones that repeat a combination.

    Such trials are those that somebody enqueued, or that came with ``--from``.
    """
    if not isinstance(study.sampler, GridSampler):
        return settings
    trials = settings.trials + study.sampler.repeats(study)
    return settings.model_copy(update={"trials": trials})


def count_combinations(suggest: Callable[[Any], Any], is_listed: bool = False) -> Combinations:
    """Count the combinations of levels that ``suggest`` can draw.

    Args:
        suggest: What an objective offers to sample a trial.
        is_listed: Whether people list the levels of its parameters with ``--space``.

    Raises:
        InputError: A parameter has no levels, there are too many combinations, or it fails.
    """
    walk = _Walk()
    count = 0
    while count == 0 or walk.turn():
        count += 1
        try:
            suggest(_Probe(walk))
        except Exception as error:  # whatever somebody else's objective raises
            raise InputError(
                f"--design grid: the objective's suggest fails with {type(error).__name__}: {error}"
            ) from error
        if count > MOST:
            raise InputError(
                f"--design grid: there are more than {MOST:,} combinations ("
                + ", ".join(f"{name} {len(seen)}" for name, seen in walk.seen.items())
                + " levels so far); list fewer levels."
            )
    if walk.ranges:
        raise InputError(_refusal(walk.ranges, is_listed))
    return Combinations(count, {name: len(seen) for name, seen in walk.seen.items()})


def _trials_of(settings: Settings) -> str:
    return f"{settings.source_of('trials')} {settings.trials}"


def _refusal(ranges: dict[str, FloatDistribution], is_listed: bool) -> str:
    names = ", ".join(f"{name} ({shown(each)})" for name, each in ranges.items())
    have = "has none but a range" if len(ranges) == 1 else "have none but a range"
    if is_listed:
        examples = (f"--space {name}={_example(each)}" for name, each in ranges.items())
        way_out = f"list them, as in {' '.join(examples)}"
    else:
        way_out = "list them in the objective (suggest_categorical), or give it a step"
    return (
        f"--design grid tries every level of a parameter, and {names} {have}: {way_out}; "
        "--design search draws from ranges."
    )


def _example(distribution: FloatDistribution) -> str:
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    return ",".join(f"{value:.2g}" for value in (low, middle, high))


@dataclass
class _Walk:
    """A walk through all combinations: every level of the last parameter first.

    Attributes:
        path: The parameters of this combination: what is left of the levels of each.
        seen: Every level of each parameter.
        ranges: Parameters without levels.
    """

    path: list[tuple[Sequence[Any], int]] = field(default_factory=list)
    seen: dict[str, set[Any]] = field(default_factory=dict)
    ranges: dict[str, FloatDistribution] = field(default_factory=dict)

    def turn(self) -> bool:
        """Go to the next combination; False after the last."""
        while self.path:
            levels, position = self.path.pop()
            if position + 1 < len(levels):
                self.path.append((levels, position + 1))
                return True
        return False

    def level(self, depth: int, name: str, distribution: BaseDistribution) -> Any:
        """Return the level of the parameter that is the ``depth``-th of this combination."""
        if depth == len(self.path):
            levels = levels_of(distribution)
            if levels is None:
                assert isinstance(distribution, FloatDistribution)
                self.ranges[name] = distribution
                levels = (distribution.low,)  # any will do to see what else there is
            self.path.append((levels, 0))
        levels, position = self.path[depth]
        value = levels[position]
        self.seen.setdefault(name, set()).add((type(value), value))  # 1 is not True
        return value


class _Probe(GivenTrial):
    """Answers suggestions with the levels of one combination."""

    def __init__(self, walk: _Walk) -> None:
        super().__init__({})
        self._walk = walk

    def asked(self, name: str, distribution: BaseDistribution) -> None:
        if name not in self.given:
            depth = len(self.given)
            self.given[name] = self._walk.level(depth, name, distribution)
