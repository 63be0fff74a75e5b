"""Finalists: the best configurations, run again with new seeds before one of them wins.

The best of many trials looks better than it is: the search has picked it for its luck, too. So its
value is measured anew, with seeds that the search has not seen, and the winner is the configuration
with the best mean. This module says which they are and who wins; ``hpo.finals`` runs them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from optuna.trial import FrozenTrial, TrialState

from hpo.errors import InputError
from hpo.extras import Extra
from hpo.feasible import is_feasible
from hpo.objective import Objective
from hpo.settings import Settings

FINALISTS = "finalists"
"""The study's user attribute that lists the finished runs of finalists."""

FINALIST_ATTEMPTS = "finalist_attempts"
"""The study's user attribute that lists the attempts at those runs."""

WINNER = "winner"
"""The study's user attribute that says who won, and how everybody did."""

DEFAULT = 3
"""How many finalists a study has whose objective can evaluate a winner."""


@dataclass(eq=False)
class FinalistRun(Extra):
    """One run of a finalist, with a seed of its own.

    Attributes:
        trial: The trial whose parameters it has.
        run: Which run of that finalist it is, from 1.
    """

    attribute: ClassVar[str] = FINALIST_ATTEMPTS

    trial: FrozenTrial
    run: int

    @property
    def place(self) -> str:
        """Its directory, from the study's on."""
        return place_of(self.identity)


def place_of(run: Mapping[str, Any]) -> str:
    """Return the directory of a run, from the study's on."""
    return f"finalists/{run['trial']}-{run['run']}"


def results_of(attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of finished runs from the user attributes of a study."""
    records: list[dict[str, Any]] = attrs.get(FINALISTS, [])
    return records


def run_of(attrs: Mapping[str, Any], whose: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of the run with this ``trial`` and ``run``; ``None`` if it has none."""
    return next((each for each in results_of(attrs) if whose.items() <= each.items()), None)


def finalists_of(settings: Settings, objective: Objective, several: bool) -> int:
    """Return how many finalists a study is to have.

    Args:
        settings: What was asked for.
        objective: The objective; one that can evaluate a winner has finalists by default.
        several: Whether the study has several directions.

    Raises:
        InputError: They were asked for in a study without one best trial.
    """
    if several and settings.finalists:
        raise InputError(
            f"{settings.source_of('finalists')} needs one best trial, and this study has several "
            "directions; leave it out."
        )
    if settings.finalists is not None:
        return settings.finalists
    return DEFAULT if hasattr(objective, "evaluate") and not several else 0


def choose_finalists(
    trials: Iterable[FrozenTrial], count: int, maximize: bool
) -> list[FrozenTrial]:
    """Return the best feasible trials, the best and the older first, each configuration once."""
    sign = -1.0 if maximize else 1.0
    able = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.values and is_feasible(trial)
    ]
    able.sort(key=lambda trial: (sign * trial.values[0], trial.number))
    chosen: dict[str, FrozenTrial] = {}
    for trial in able:
        if len(chosen) == count:
            break
        chosen.setdefault(json.dumps(trial.params, sort_keys=True, default=str), trial)
    return list(chosen.values())


@dataclass(frozen=True)
class Ranked:
    """How a finalist did.

    Attributes:
        trial: The trial whose parameters it has.
        runs: The finished runs, as the study records them.
        why: Why it cannot win; empty if it can.
    """

    trial: FrozenTrial
    runs: tuple[Mapping[str, Any], ...]
    why: str

    @property
    def values(self) -> list[float]:
        """What the runs returned."""
        return [float(run["value"]) for run in self.runs]

    @property
    def mean(self) -> float:
        """The mean over the runs; not a number without one."""
        return statistics.fmean(self.values) if self.runs else float("nan")

    @property
    def std(self) -> float:
        """The sample standard deviation over the runs; 0 for fewer than two."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else 0.0

    def best(self, maximize: bool) -> Mapping[str, Any]:
        """Return the run with the best value, the first of equals."""
        sign = -1.0 if maximize else 1.0
        return min(self.runs, key=lambda run: (sign * float(run["value"]), run["run"]))


def rank(
    finalists: Sequence[FrozenTrial],
    results: Collection[Mapping[str, Any]],
    seeds: int,
    maximize: bool,
) -> list[Ranked]:
    """Return the finalists, those that can win first, each by the mean over its seeds.

    One whose runs did not all finish cannot win: a configuration that diverges with one seed of
    three does so with a third of all seeds. Nor can one whose runs break a rule on average.
    """
    found = []
    for trial in finalists:
        runs = sorted(
            (each for each in results if each["trial"] == trial.number and each["run"] <= seeds),
            key=lambda run: int(run["run"]),
        )
        broken = sorted(
            {
                rule
                for each in runs
                for rule in each["violations"]
                if statistics.fmean(one["violations"].get(rule, 0.0) for one in runs) > 0
            }
        )
        why = f"breaks {', '.join(broken)} over its seeds" if broken else ""
        if len(runs) < seeds:
            why = f"{seeds - len(runs)} of its {seeds} runs did not finish"
        found.append(Ranked(trial, tuple(runs), why))
    sign = -1.0 if maximize else 1.0

    def place(ranked: Ranked) -> tuple[bool, bool, float, int]:
        mean = sign * ranked.mean if ranked.runs else 0.0
        return bool(ranked.why), not ranked.runs, mean, ranked.trial.number

    return sorted(found, key=place)


def winner_record(ranking: Sequence[Ranked], maximize: bool) -> dict[str, Any] | None:
    """Return what the study records of its winner; ``None`` if nobody can win."""
    if not ranking or ranking[0].why:
        return None
    first = ranking[0]
    run = first.best(maximize)
    return {
        "trial": first.trial.number,
        "run": run["run"],
        "model": run["model"],
        "value": run["value"],
        "mean": first.mean,
        "std": first.std,
        "seeds": len(first.runs),
        "search": _search(ranking, maximize),
        "ranking": [
            {
                "trial": each.trial.number,
                "mean": each.mean if each.runs else None,
                "std": each.std,
                "values": each.values,
                "search_value": each.trial.value,
                "eligible": not each.why,
                "why": each.why,
            }
            for each in ranking
        ],
    }


def _search(ranking: Sequence[Ranked], maximize: bool) -> dict[str, Any]:
    """Return what the search's best trial had, what new seeds give it, and the difference.

    The optimism is above zero where the search had made it look better than it is.
    """
    sign = 1.0 if maximize else -1.0

    def place(ranked: Ranked) -> tuple[float, int]:
        assert ranked.trial.value is not None  # a completed trial of one direction has one
        return -sign * ranked.trial.value, ranked.trial.number

    best = min(ranking, key=place)
    value = float(best.trial.values[0])
    mean = best.mean if best.runs else None
    return {
        "trial": best.trial.number,
        "value": value,
        "mean": mean,
        "optimism": sign * (value - mean) if mean is not None else None,
    }
