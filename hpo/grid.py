"""A sampler that tries every combination of levels once, in an order that the seed decides.

Optuna's own ``GridSampler`` knows no conditional parameters, and its ``BruteForceSampler`` repeats
combinations, or leaves some out, where several trials run at once and are asked and told one by
one. This one keeps a tree of what the objective has asked for so far: a node is a parameter, its
children are that parameter's levels, a leaf is a combination, or a place where the objective may
ask for more. Each running trial holds a leaf, or one of those below the node that it has come to;
so no two trials end at the same one.

Everything follows from the study's trials, hence a run that was killed goes on with what is left.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import StudyStoppedError
from hpo.replay import shown
from hpo.text import parameters

GRID = "grid"
"""What the sampler is called in settings and records."""


def levels_of(distribution: BaseDistribution) -> Sequence[Any] | None:
    """Return the values that a parameter can have; ``None`` for a range without a step.

    A range of whole numbers has all of them.
    """
    match distribution:
        case CategoricalDistribution(choices=choices):
            # Equal choices are one to Optuna: it stores a value as the first that equals it.
            index = distribution.to_internal_repr
            return [each for position, each in enumerate(choices) if index(each) == position]
        case IntDistribution(low=low, high=high, step=step):
            return range(low, high + 1, step)
        case FloatDistribution(low=low, high=high, step=step) if step is not None:
            # In decimals, or 0.1 + 2 * 0.1 would be 0.30000000000000004.
            first, by = Decimal(str(low)), Decimal(str(step))
            return [float(first + i * by) for i in range(round((high - low) / step) + 1)]
        case FloatDistribution(low=low, high=high) if low == high:
            return (low,)
        case _:
            return None


def has_more(study: Study) -> bool:
    """Whether another trial of ``study`` would have something to try.

    Always, except in a grid. There it may be wrong for a while: as long as nobody knows which
    parameters a running trial will yet ask for, there may be more combinations than are known.
    """
    sampler = study.sampler
    return not isinstance(sampler, GridSampler) or sampler.has_more(study)


@dataclass(eq=False)
class _Node:
    """A place in the tree.

    Attributes:
        parent: The node above; ``None`` for the root.
        name: The parameter that is asked for here; empty as long as none was.
        distribution: What it is drawn from.
        levels: Its values.
        children: By the position of a level; only those that a trial has come to.
        open: How many leaves, here and below, no finished trial has closed.
        closed: Whether a finished trial ended here.
    """

    parent: _Node | None = None
    name: str = ""
    distribution: BaseDistribution | None = None
    levels: Sequence[Any] = ()
    children: dict[int, _Node] = field(default_factory=dict)
    open: int = 1
    closed: bool = False

    def expand(self, name: str, distribution: BaseDistribution, levels: Sequence[Any]) -> None:
        """Turn this leaf into a node with a leaf for each of ``levels``."""
        self._add(len(levels) - (not self.closed))
        self.name, self.distribution, self.levels = name, distribution, levels
        self.closed = False

    def child(self, position: int) -> _Node:
        """Return the node of the level at ``position``."""
        return self.children.setdefault(position, _Node(self))

    def close(self) -> bool:
        """Close this leaf; False if it is none, or was closed before."""
        if self.name or self.closed:
            return False
        self.closed = True
        self._add(-1)
        return True

    def above(self) -> list[_Node]:
        """Return this node and all above it."""
        found = [self]
        while (parent := found[-1].parent) is not None:
            found.append(parent)
        return found

    def _add(self, leaves: int) -> None:
        for node in self.above():
            node.open += leaves


class GridSampler(BaseSampler):
    """Tries every combination once.

    At every node the levels that still have something untried are equally likely, so the first
    trials are a fair sample of all.

    Args:
        seed: Seed of the order.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._root = _Node()
        self._absorbed: set[int] = set()
        self._repeats = 0

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: which parameters there are is found one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing; see :meth:`infer_relative_search_space`."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a level under which something is untried.

        Raises:
            StudyStoppedError: The parameter has no levels, or an earlier trial with the same
                parameters so far went on with another one.
        """
        levels = levels_of(param_distribution)
        if levels is None:
            raise StudyStoppedError(
                f"--design grid tries every level of a parameter, and {param_name} has none but "
                f"the range {shown(param_distribution)}: list its levels (suggest_categorical), "
                "or give it a step."
            )
        trials = _all_trials(study)
        self._absorb(trials)
        node = self._place_of(trial)
        if node is None:  # somebody enqueued a value beside the grid
            return self._random.choice(levels)
        if node.distribution is None:
            node.expand(param_name, param_distribution, levels)
        elif (node.name, node.distribution) != (param_name, param_distribution):
            raise StudyStoppedError(
                f"--design grid: after {parameters(trial.params) or 'nothing'} the objective asked "
                f"for {param_name} ({shown(param_distribution)}), and in another trial for "
                f"{node.name} ({shown(node.distribution)}): what it asks for may depend on the "
                "parameters it has, and on nothing else."
            )
        held = self._held(each for each in trials if each.number != trial.number)
        return levels[self._choose(node, held)]

    def has_more(self, study: Study) -> bool:
        """Whether there is a combination that no trial has; see :func:`has_more`."""
        trials = _all_trials(study)
        self._absorb(trials)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return True
        return self._root.open > self._held(trials)[self._root]

    def repeats(self, study: Study) -> int:
        """Return how many finished trials (completed or pruned) brought no new combination."""
        self._absorb(_all_trials(study))
        return self._repeats

    def _choose(self, node: _Node, held: Counter[_Node]) -> int:
        known, every = node.children, range(len(node.levels))
        free = [
            position
            for position in every
            if position not in known or known[position].open > held[known[position]]
        ]
        # None is free only below parameters that somebody enqueued.
        return self._random.choice(free or every)

    def _absorb(self, trials: Sequence[FrozenTrial]) -> None:
        """Close the leaves of trials that have finished since the last time."""
        for trial in trials:
            if trial.number in self._absorbed or not trial.state.is_finished():
                continue
            self._absorbed.add(trial.number)
            failed = trial.state is TrialState.FAIL
            if failed and not trial.params:
                continue  # it came to nothing, which says nothing of any combination
            node = self._place_of(trial)
            if (node is None or not node.close()) and not failed:
                self._repeats += 1

    def _held(self, trials: Iterable[FrozenTrial]) -> Counter[_Node]:
        """Return how many leaves, by node, the running ones of ``trials`` hold."""
        held: Counter[_Node] = Counter()
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                node = self._place_of(trial)
                if node is not None and not node.closed:
                    held.update(node.above())
        return held

    def _place_of(self, trial: FrozenTrial) -> _Node | None:
        """Return where a trial has come to; ``None`` if that is beside the grid."""
        node, left = self._root, dict(trial.distributions)
        while left:
            name = node.name or next(iter(left))
            distribution = left.pop(name, None)
            if distribution is None:
                return node
            if not node.name:
                levels = levels_of(distribution)
                if levels is None:
                    return None
                node.expand(name, distribution, levels)
            elif node.distribution != distribution:
                return None
            position = _position(distribution, node.levels, trial.params[name])
            if position is None:
                return None
            node = node.child(position)
        return node


def _all_trials(study: Study) -> list[FrozenTrial]:
    # Not study.get_trials(): while Hyperband prunes, that of a sampler's study hides some.
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def _position(distribution: BaseDistribution, levels: Sequence[Any], value: Any) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        index = distribution.to_internal_repr  # which knows that NaN is NaN
        return next(i for i, level in enumerate(levels) if index(level) == index(value))
    near = (i for i, level in enumerate(levels) if math.isclose(level, value, abs_tol=1e-12))
    return next(near, None)
