"""The cheapest model that is as good as the winner.

Less is cheaper, by the metrics that the objective names, the most important first. What is compared
with the winner, on the same validation pairs, are the other finalists and the front of the trials:
those that no trial beats which costs no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.feasible import is_feasible

MOST = 30
"""So many trials of the front are compared at most, the best of those that cost less."""

Cost = tuple[float, ...]


def cost_of(metrics: Any, names: Sequence[str]) -> Cost | None:
    """Return what a model costs by each of ``names``; ``None`` if that is not known."""
    if not isinstance(metrics, Mapping) or not names:
        return None
    found = [metrics.get(name) for name in names]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in found):
        return None
    return tuple(float(each) for each in found if each is not None)


def front(
    trials: Iterable[FrozenTrial], names: Sequence[str], below: Cost, maximize: bool
) -> list[tuple[Cost, FrozenTrial]]:
    """Return the front of the feasible trials that cost less than ``below``, the best first."""
    sign = -1.0 if maximize else 1.0
    able = [
        (sign * trial.values[0], trial.number, cost, trial)
        for trial in trials
        if trial.state is TrialState.COMPLETE
        and trial.values
        and is_feasible(trial)
        and (cost := cost_of(trial.user_attrs.get("metrics"), names)) is not None
        and cost < below
    ]
    able.sort(key=lambda each: each[:2])
    found: list[tuple[Cost, FrozenTrial]] = []
    for _, _, cost, trial in able:
        if len(found) == MOST:
            break
        if not any(_no_dearer(better, cost) for better, _ in found):
            found.append((cost, trial))
    return found


def _no_dearer(one: Cost, other: Cost) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def cheapest(
    candidates: Iterable[tuple[Cost, Mapping[str, Any]]], names: Sequence[str], winner: Cost
) -> dict[str, Any] | None:
    """Return the cheapest candidate that is as good as the winner and costs less, or ``None``.

    Args:
        candidates: What each costs, and how it compares.
        names: What is counted as a cost.
        winner: What the winner costs.
    """
    able = [(cost, each) for cost, each in candidates if each["as_good"] and cost < winner]
    if not able:
        return None
    cost, found = min(able, key=lambda each: each[0])
    pairs = zip(names, cost, winner, strict=True)
    return {
        "trial": found["trial"],
        "run": found["run"],
        "difference": found["difference"],
        "saves": {name: [mine, theirs] for name, mine, theirs in pairs},
    }
