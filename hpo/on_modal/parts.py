"""Files in parts, as calls can carry them: a call has a limit, and a container's memory, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

PART_BYTES = 32 << 20
"""How much of the files one call carries."""

Part = TypeVar("Part")


def parts_of(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, int, bytes]]:
    """Yield files in parts that a call can carry: name, offset and content."""
    for name, path in files:
        offset = 0
        with path.open("rb") as file:
            while True:
                data = file.read(PART_BYTES)
                if data or not offset:
                    yield name, offset, data
                offset += len(data)
                if len(data) < PART_BYTES:
                    break


def spans_of(sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield, for files of these sizes, the parts to ask for: name, offset and length."""
    for name, size in sizes:
        for offset in range(0, max(size, 1), PART_BYTES):
            yield name, offset, min(PART_BYTES, size - offset)


def batches(parts: Iterable[Part], size: Callable[[Part], int]) -> Iterator[list[Part]]:
    """Yield parts in lists that one call can carry.

    Args:
        parts: The parts, none larger than :data:`PART_BYTES`.
        size: Says how many bytes one has.
    """
    batch: list[Part] = []
    total = 0
    for part in parts:
        if batch and total + size(part) > PART_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(part)
        total += size(part)
    if batch:
        yield batch
