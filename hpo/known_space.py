"""Whether an objective still samples from the space that its study was made with.

Optuna lets a resumed study go on with other ranges, and mixes trials that do not compare. An
objective with options shows a change there. A plain function shows its space only as it runs, so
what it asks for is compared with what the finished trials have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from hpo.replay import shown


class KnownSpace:
    """The distributions of a study's finished trials, by parameter.

    Args:
        study: The study's name, for the message.
        trials: Its finished trials.
    """

    def __init__(self, study: str, trials: Iterable[FrozenTrial]) -> None:
        self._study = study
        self._known: defaultdict[str, set[BaseDistribution]] = defaultdict(set)
        for trial in trials:
            for name, distribution in trial.distributions.items():
                self._known[name].add(distribution)

    def difference(self, name: str, distribution: BaseDistribution) -> str:
        """Say how a parameter differs from what all trials have; empty if it does not.

        A parameter that was drawn from several distributions depends on other parameters, and one
        that no trial has may do so, too: they are left alone.
        """
        known = self._known.get(name, set())
        if len(known) != 1 or distribution in known:
            return ""
        (old,) = known
        return (
            f"study {self._study!r} was made with another space: {name!r} was drawn from "
            f"{shown(old)}, now from {shown(distribution)}. Its trials would not compare: go back "
            f"to that space, or start another study with --study NEW; with --from {self._study} "
            "it begins with the trials that fit."
        )
