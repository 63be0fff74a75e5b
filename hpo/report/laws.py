"""The scaling laws of a study: which of its trials may be points of one, and what it answers.

A search tries more often what looks good, and the best of fifty beats the best of five. So at each
number of pairs equally many draws count, the first ones, and pruned trials are draws that lost: a
pruner stops small samples more often, of which else only the lucky ones would be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hpo.report.facts import HEAD, Facts, Measures, Run, short
from hpo.report.scaling import PairsNeeded, Point, Refusal, ScalingLaw, fit_scaling

MOST_BATCHES = 3
"""So many points at each number of pairs, where there are draws enough: they show the scatter."""

LEAST_BATCH = 3
"""Draws of a batch where there are several."""


@dataclass(frozen=True)
class Curve:
    """The draws of one base model that are comparable, and the law that they show.

    Attributes:
        title: What they are called.
        points: The best of each batch: number of pairs and error rate.
        batches: How many batches each size has.
        draws: How many draws are in a batch.
        most: The most pairs that a completed trial had.
        measures: What was measured of the completed trials.
    """

    title: str
    points: tuple[Point, ...]
    batches: int
    draws: int
    most: int
    measures: tuple[Measures, ...]

    @cached_property
    def law(self) -> ScalingLaw | Refusal:
        """The law, or why there is none."""
        if any(point.error <= 0 for point in self.points):
            return Refusal("some trials made no error at all, which no such law describes")
        return fit_scaling(self.points)

    def answer(self, error: float) -> str:
        """Say how many more labelled pairs bring the error rate down to ``error``."""
        law = self.law
        found = law if isinstance(law, Refusal) else law.pairs_needed(error)
        if isinstance(found, Refusal):
            return f"cannot be said: {found.reason}"
        return f"{_in_all(found)}, {self._more(found.n)}"

    def _more(self, n: float) -> str:
        if n <= self.most:
            return f"no more than were tried ({self.most:,})"
        return f"about {_rounded(n - self.most)} more than the most that were tried ({self.most:,})"


def kinds(runs: Iterable[Run]) -> list[tuple[str, list[Run]]]:
    """Return runs that compare, with what they are called, those of most runs first.

    They have one base model, and are either heads on cached embeddings or not: heads have sizes of
    their own, and a line from the one to the other would say nothing.
    """
    groups: dict[tuple[str, bool], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.model, run.tuning == HEAD].append(run)
    found = []
    for (model, head), own in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        other = ", heads only" if head else ", without heads"
        found.append((short(model) + (other if (model, not head) in groups else ""), own))
    return found


def curves(facts: Facts) -> list[Curve]:
    """Return a curve for each kind of runs that has errors."""
    sized = [run for run in facts.runs if run.size is not None]
    return [
        _curve(facts, title, runs)
        for title, runs in kinds(sized)
        if any(run.measures.error is not None for run in runs)
    ]


def _curve(facts: Facts, title: str, runs: list[Run]) -> Curve:
    draws: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        draws[run.size or 0].append(run)
    fewest = min(len(each) for each in draws.values())
    batches = max(1, min(MOST_BATCHES, fewest // LEAST_BATCH))
    size = fewest // batches
    points = []
    for n, each in sorted(draws.items()):
        for batch in range(batches):
            best = facts.best(each[batch * size : (batch + 1) * size])
            if best is not None and best.measures.error is not None:
                points.append(Point(n, best.measures.error))
    complete = [run for run in runs if run.complete]
    most = max(run.size or 0 for run in complete)
    measures = tuple(run.measures for run in complete)
    return Curve(title, tuple(points), batches, size, most, measures)


def _in_all(found: PairsNeeded) -> str:
    n, low, high = (_rounded(each) for each in found)
    return f"about {n} pairs in all (95 %: {low} to {high})"


def _rounded(n: float) -> str:
    """Return two digits of a number of pairs: more are not known."""
    text = f"{n:.1e}"
    return f"{float(text):,.0f}"
