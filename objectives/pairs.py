"""Labelled question pairs: the one shape of data that everything in this package works on.

It is kept apart from reading files (`objectives.reading`) and from splitting (`objectives.splits`),
so that workers and the coordinator can pass pairs around without importing anything heavy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used, with a message that names the value, the rule and the way out."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts, each labelled 1 (the same meaning, a duplicate) or 0 (not).

    The three tuples have one entry per pair; unequal lengths raise `DataError`.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the three columns have the same length."""
        if not len(self.first) == len(self.second) == len(self.labels):
            raise DataError(
                f"pairs need columns of equal length, but got {len(self.first)} first texts, "
                f"{len(self.second)} second texts and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        """Iterate over (first, second, label)."""
        return zip(self.first, self.second, self.labels, strict=True)

    @property
    def positives(self) -> int:
        """The number of pairs labelled 1."""
        return sum(self.labels)

    def take(self, indices: Iterable[int]) -> Pairs:
        """Return the pairs at these positions, in the order of `indices`."""
        rows = tuple(indices)
        return Pairs(
            tuple(self.first[row] for row in rows),
            tuple(self.second[row] for row in rows),
            tuple(self.labels[row] for row in rows),
        )


def write_jsonl(pairs: Pairs, path: Path) -> None:
    """Write one {"first", "second", "label"} object a line, as UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for first, second, label in pairs:
            line = {"first": first, "second": second, "label": label}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Pairs:
    """Read what `write_jsonl` wrote; a line of any other shape raises `DataError`."""
    first: list[str] = []
    second: list[str] = []
    labels: list[int] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                label = row["label"]
                texts = (row["first"], row["second"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: expected an object with first, second and label, "
                    f"got {line.strip()[:80]!r}; prepare the data again"
                ) from error
            if type(label) is not int or label not in (0, 1) or not all(map(_is_text, texts)):
                raise DataError(
                    f"{path}, line {number}: first and second must be text and label 0 or 1, "
                    f"got {line.strip()[:80]!r}; prepare the data again"
                )
            first.append(texts[0])
            second.append(texts[1])
            labels.append(label)
    return Pairs(tuple(first), tuple(second), tuple(labels))


def _is_text(value: object) -> bool:
    return isinstance(value, str)
