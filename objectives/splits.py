"""Train, validation and test splits in which no question occurs twice, and nested samples.

Questions recur across pairs, so a random split leaks: the model is tested on questions it has
trained on. Here the questions are the nodes of a graph, each pair is an edge, and whole connected
components go to one split. All choices follow from hashes of the content and the seed: neither the
order of the rows nor the version of a random generator changes what is drawn.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from objectives.pairs import DataError, Pairs

SPLITS = ("train", "validation", "test")

MIN_HELD_OUT = 5
"""Fewest pairs of a validation or test split; it also needs both labels."""


@dataclass(frozen=True)
class Split:
    """Three sets of pairs without a common question, and notes for people on what is unusual."""

    train: Pairs
    validation: Pairs
    test: Pairs
    notes: tuple[str, ...] = ()


def question_key(text: str) -> str:
    """Return what makes two texts the same question.

    Lower-casing and white space folding come first and last, Unicode NFKC and case folding between:
    texts that are equal after lower-casing and folding white space always have the same key.
    """
    lowered = " ".join(text.lower().split())
    if lowered.isascii():
        return lowered
    folded = unicodedata.normalize("NFKC", lowered).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def components(pairs: Pairs) -> list[int]:
    """Number the connected component of the question graph each pair belongs to, from 0 up.

    Numbers follow the first appearance. Union-find with path halving: almost linear.
    """
    ids: dict[str, int] = {}
    parent: list[int] = []

    def node(text: str) -> int:
        found = ids.setdefault(question_key(text), len(parent))
        if found == len(parent):
            parent.append(found)
        return found

    def root(found: int) -> int:
        while parent[found] != found:
            parent[found] = parent[parent[found]]
            found = parent[found]
        return found

    nodes: list[int] = []
    for first, second, _ in pairs:
        one, two = node(first), node(second)
        nodes.append(one)
        one, two = root(one), root(two)
        # The lower number stays: without ranks the halving alone keeps the paths short.
        parent[max(one, two)] = min(one, two)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(found), len(numbers)) for found in nodes]


def split_pairs(
    pairs: Pairs, seed: int = 0, fractions: tuple[float, float, float] = (0.70, 0.15, 0.15)
) -> Split:
    """Split pairs into train, validation and test (`fractions`) by connected components.

    Components are dealt from the largest down, each to the split whose missing pairs of either
    label it fills best, so sizes and label balance come out within about one small component. A
    component larger than a tenth of the smaller held-out split goes to train as long as it fits
    there: a validation split made of one topic would measure little. A component larger than
    everything train should have goes there all the same; the rest is then shared out and the notes
    say so. The same pairs in another order give the same splits, in the same order.

    Raises `DataError` if validation or test would be left with fewer than `MIN_HELD_OUT` pairs or
    without one of the labels, and `ValueError` for fractions that are not positive and 1 in sum.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be three positive numbers of sum 1, but got {fractions}")
    order = _shuffled(pairs, seed)
    pairs = pairs.take(order)
    members: dict[int, list[int]] = {}
    for row, component in enumerate(components(pairs)):
        members.setdefault(component, []).append(row)
    # `pairs` is shuffled, and sorting is stable: components of equal size stay shuffled.
    groups = sorted(members.values(), key=len, reverse=True)
    places = _deal(groups, pairs, fractions)
    rows: list[list[int]] = [[], [], []]
    for group, place in zip(groups, places, strict=True):
        rows[place].extend(group)
    parts = [pairs.take(sorted(part)) for part in rows]
    giant = len(groups[0]) if groups else 0
    for name, part in zip(SPLITS[1:], parts[1:], strict=True):
        _check_held_out(name, part, pairs, giant, len(groups))
    notes = []
    if abs(len(parts[0]) / len(pairs) - fractions[0]) > 0.05:
        share = " · ".join(
            f"{name} {len(part):,}" for name, part in zip(SPLITS, parts, strict=True)
        )
        notes.append(
            f"the largest group of connected questions holds {giant / len(pairs):.0%} of the pairs "
            f"and cannot be divided, so the split is {share}"
        )
    return Split(parts[0], parts[1], parts[2], tuple(notes))


def _deal(
    groups: Sequence[Sequence[int]], pairs: Pairs, fractions: tuple[float, float, float]
) -> list[int]:
    """Choose a split (0, 1 or 2) for each group of rows; groups come largest first."""
    total, positives = len(pairs), pairs.positives
    # Wanted and present counts of either label, per split.
    wanted = [(share * (total - positives), share * positives) for share in fractions]
    present = [[0, 0] for _ in fractions]
    large = max(3.0, min(fractions[1:]) * total / 10)
    places = []
    for group in groups:
        ones = sum(pairs.labels[row] for row in group)
        counts = (len(group) - ones, ones)
        if len(group) > large and sum(present[0]) + len(group) <= fractions[0] * total:
            best = 0
        else:
            best = min(range(3), key=lambda place: _misfit(counts, present[place], wanted[place]))
        present[best][0] += counts[0]
        present[best][1] += counts[1]
        places.append(best)
    return places


def _misfit(counts: tuple[int, int], present: Sequence[int], wanted: tuple[float, float]) -> float:
    """Return the change of sum((present - wanted)² / wanted) if `counts` were added."""
    return sum(
        count * (2 * (there - want) + count) / want
        for count, there, want in zip(counts, present, wanted, strict=True)
        if count
    )


def _check_held_out(name: str, part: Pairs, pairs: Pairs, giant: int, groups: int) -> None:
    if len(part) >= MIN_HELD_OUT and 0 < part.positives < len(part):
        return
    raise DataError(
        f"these {len(pairs):,} pairs cannot be split: {name} would have {len(part):,} pairs, "
        f"{part.positives:,} labelled 1, but needs {MIN_HELD_OUT} and both labels. Pairs that "
        f"share a question stay together; they form {groups:,} groups, the largest with {giant:,} "
        "pairs. Add pairs of other questions and of both labels"
    )


def nested_sample(pairs: Pairs, n: int, seed: int = 0) -> Pairs:
    """Return the first `n` pairs of one fixed shuffle: smaller samples are prefixes of larger ones.

    The shuffle depends on the seed and the content, not on the order of `pairs`. It is stratified:
    every prefix has the label balance of the whole, to within one pair. Raises `ValueError` for an
    `n` below 1 or beyond the pairs there are.
    """
    if not 1 <= n <= len(pairs):
        raise ValueError(
            f"a sample of {n:,} pairs was asked for, but there are {len(pairs):,}; choose a number "
            f"from 1 to {len(pairs):,}"
        )
    order = _shuffled(pairs, seed)
    sizes = (len(pairs) - pairs.positives, pairs.positives)
    seen = [0, 0]
    ranked = []
    for row in order:
        label = pairs.labels[row]
        # Each label is spread evenly over (0, 1); merging the two spreads both over the prefixes.
        ranked.append(((seen[label] + 0.5) / sizes[label], row))
        seen[label] += 1
    ranked.sort(key=lambda entry: entry[0])
    return pairs.take(row for _, row in ranked[:n])


def content_hash(pairs: Pairs) -> str:
    """Return the SHA-256 of the pairs as a set with repeats, in hexadecimal: order is ignored.

    Which text of a pair is first does count, and so do its exact characters and its label.
    """
    whole = hashlib.sha256()
    for digest in sorted(_digests(pairs, "")):
        whole.update(digest)
    return whole.hexdigest()


def _shuffled(pairs: Pairs, seed: int) -> list[int]:
    """Return the positions of the pairs in an order fixed by the seed and the content."""
    digests = _digests(pairs, str(seed))
    return sorted(range(len(pairs)), key=digests.__getitem__)


def _digests(pairs: Pairs, salt: str) -> list[bytes]:
    # JSON keeps the fields apart: no two different pairs give the same bytes.
    return [
        hashlib.sha256(json.dumps([salt, first, second, label]).encode()).digest()
        for first, second, label in pairs
    ]
