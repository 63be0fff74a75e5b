"""Requirements: what a metric of a trial must reach for the trial to win.

A study maximises one metric and may ask for others, as in ``recall>=0.5``. A requirement becomes an
Optuna constraint of every completed trial, with the requirement's text as its key: a number that is
zero or less exactly when the requirement is met.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""The comparisons a requirement can make, by how they are written."""

VALUE = "value"
"""The name that stands for what the objective returns, whatever the study calls it."""

SMALLEST = 2.0**-1022
"""A violation is never closer to zero than this, the smallest normal double: a database may take a
smaller one for zero."""

LARGEST = 1e300
"""A violation is never larger than this, so that sums of violations, by which samplers rank
infeasible trials, stay finite."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_REQUIREMENT = re.compile(rf"\s*([^\s<>=!][^<>=!]*?)\s*(>=|<=|>|<)\s*({_NUMBER})\s*")


class MissingMetricError(ValueError):
    """A trial has no number by the name that a requirement asks for."""


@dataclass(frozen=True)
class Requirement:
    """One comparison of a metric with a bound.

    Attributes:
        metric: The metric's name in the trial's ``metrics``; ``value`` or the study's own metric
            is what the objective returned.
        comparison: One of ``OPERATORS``.
        bound: What the metric is compared with; finite.
    """

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Return the requirement that ``text`` states, such as ``recall>=0.5``.

        Raises:
            ValueError: It states none.
        """
        match = _REQUIREMENT.fullmatch(text)
        rule = (
            "a requirement is a metric's name, one of >=, <=, > and <, and a number, "
            'such as "recall>=0.5"'
        )
        if match is None:
            raise ValueError(f"{rule}; {text!r} is not of that form")
        metric, comparison, bound = match[1], match[2], float(match[3])
        if re.fullmatch(_NUMBER, metric):
            raise ValueError(f"{rule}; {text!r} has a number in place of the name")
        if math.isinf(bound):
            raise ValueError(f"{rule}; in {text!r} the number is beyond what a float can hold")
        return cls(metric, comparison, bound + 0.0)  # -0.0 and 0.0 are one bound

    def __str__(self) -> str:
        """Return the canonical form, which is the constraint's key; ``parse`` reads it back."""
        return f"{self.metric}{self.comparison}{repr(self.bound).removesuffix('.0')}"

    def met(self, metric: float) -> bool:
        """Return whether ``metric`` meets the requirement; NaN never does."""
        return OPERATORS[self.comparison](metric, self.bound)

    def violation(self, metric: float) -> float:
        """Return by how much ``metric`` misses the bound.

        Zero or less exactly if the requirement is met, and the larger the further off. Finite also
        for infinite metrics; the largest there is for NaN.
        """
        if math.isnan(metric):
            return LARGEST
        lower = self.comparison.startswith(">")
        # The difference of two unequal doubles is never zero, but it may be infinite.
        missing = self.bound - metric if lower else metric - self.bound
        if self.met(metric):
            return 0.0 if missing > -SMALLEST else max(missing, -LARGEST)
        return min(max(missing, SMALLEST), LARGEST)


def parse_requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Return the requirements that ``texts`` state, each once, in their order.

    Raises:
        ValueError: One states none, or no number can meet two of them.
    """
    found = tuple(dict.fromkeys(Requirement.parse(text) for text in texts))
    for index, first in enumerate(found):
        for second in found[index + 1 :]:
            if _contradict(first, second):
                raise ValueError(
                    f"no trial can meet both {str(first)!r} and {str(second)!r}; drop one"
                )
    return found


def _contradict(first: Requirement, second: Requirement) -> bool:
    if first.metric != second.metric or first.comparison[0] == second.comparison[0]:
        return False
    low, high = (first, second) if first.comparison[0] == ">" else (second, first)
    strict = len(low.comparison) + len(high.comparison) < 4
    return low.bound > high.bound or (low.bound == high.bound and strict)


def metric_of(name: str, metrics: object, value: float | None, metric_name: str | None) -> float:
    """Return a trial's metric.

    Args:
        name: The metric's name.
        metrics: The trial's user attribute ``metrics``; an objective may have set it to anything.
        value: What the objective returned; ``None`` if several values, or nothing.
        metric_name: What the study calls that value.

    Raises:
        MissingMetricError: There is no number by that name.
    """
    found: dict[str, Any] = dict(metrics) if isinstance(metrics, Mapping) else {}
    if value is not None:
        found = {VALUE: value, **({metric_name: value} if metric_name else {}), **found}
    number = found.get(name)
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            return float(number)
        except OverflowError:  # an integer beyond every float
            return math.inf if number > 0 else -math.inf
    if name in found:
        raise MissingMetricError(f"its metric {name!r} is {number!r}, which is no number")
    known = ", ".join(repr(each) for each in found) or "none at all"
    raise MissingMetricError(f"it has no metric {name!r}; it has {known}")


def violations(
    requirements: Sequence[Requirement],
    metrics: object,
    value: float | None,
    metric_name: str | None,
) -> dict[str, float]:
    """Return a trial's violations by constraint key; see :func:`metric_of` for the arguments.

    Raises:
        MissingMetricError: The trial lacks a metric that a requirement asks for.
    """
    return {
        str(each): each.violation(metric_of(each.metric, metrics, value, metric_name))
        for each in requirements
    }
