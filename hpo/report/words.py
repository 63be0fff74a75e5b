"""Numbers and provenance in words, as figures, tables and sentences of a report share them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hpo.report.facts import Measures, number

UNKNOWN = "–"


def measured_on(measures: Iterable[Measures]) -> str:
    """Say on how many pairs of the validation split something was measured."""
    return f"Measured on {pairs_of(measures)} of the validation split."


def pairs_of(measures: Iterable[Measures]) -> str:
    """Return the number of pairs; of several numbers the least and the most."""
    found = sorted({each.pairs for each in measures if each.pairs is not None})
    if not found:
        return "an unknown number of pairs"
    if len(found) == 1:
        return f"{found[0]:,} pairs"
    return f"{found[0]:,} to {found[-1]:,} pairs"


def shortly(value: float | None) -> str:
    """Return a share to four digits."""
    return UNKNOWN if value is None else f"{value:.4f}"


def with_interval(found: object) -> str:
    """Return ``{value, low, high}`` for people."""
    return _spread(found, ".4f")


def difference(found: object) -> str:
    """Return a difference ``{value, low, high}`` for people, with its sign."""
    return _spread(found, "+.4f").replace("-", "−")


def _spread(found: object, how: str) -> str:
    value, low, high = ends(found)
    if value is None:
        return UNKNOWN
    if low is None or high is None:
        return f"{value:{how}}"
    return f"{value:{how}} ({low:{how}} to {high:{how}})"


def ends(found: object) -> tuple[float | None, float | None, float | None]:
    """Return value, low and high."""
    entry: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    return number(entry.get("value")), number(entry.get("low")), number(entry.get("high"))


def plural(count: int, what: str) -> str:
    """Return a count of things: 1 trial, 2 trials."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
