"""The data of a study on disk: what trials may see, and the test split, which they may not.

Written once, before the first trial, and recognised by its content ever after: a study never goes
on with other data than it began with.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from objectives.pairs import DataError, Pairs, write_jsonl
from objectives.splits import Split, content_hash, nested_sample, split_pairs

MANIFEST = "manifest.json"
LAYOUT = 1
"""Version of what is written; another one is other data."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared directory holds.

    Attributes:
        layout: Version of the files.
        content: SHA-256 of all pairs, whatever their order.
        seed: Seed of the splits and of the shuffle.
        pairs: Number of pairs before splitting.
        positives: How many of them mean the same.
        train: Number of training pairs.
        validation: Number of validation pairs that trials are scored on.
        validation_split: Number of pairs in the validation split.
        test: Number of test pairs.
        source: Where the pairs came from.
    """

    layout: int
    content: str
    seed: int
    pairs: int
    positives: int
    train: int
    validation: int
    validation_split: int
    test: int
    source: str


def prepare_data(
    pairs: Pairs,
    source: str,
    directory: Path,
    seed: int,
    validation_pairs: int,
    check: Callable[[int], object],
) -> tuple[Manifest, tuple[str, ...]]:
    """Split ``pairs`` and write ``directory``/data (train, validation) and
    ``directory``/test.jsonl.

    train.jsonl is in the order of one fixed shuffle, so that its first n lines are the sample of
    size n. validation.jsonl holds the pairs that every trial is scored on: the first
    ``validation_pairs`` of the validation split in such an order, or all of it where it is smaller.

    Args:
        pairs: All labelled pairs.
        source: Where they came from, for people.
        directory: The study's directory.
        seed: Seed of the splits and of the shuffle.
        validation_pairs: The most pairs to score a trial on.
        check: Gets the number of training pairs before anything is written; may raise.

    Returns:
        What is there now, and notes for people on the splits.

    Raises:
        DataError: ``directory`` holds other data, or the pairs cannot be split.
    """
    split = split_pairs(pairs, seed)
    check(len(split.train))
    manifest = Manifest(
        layout=LAYOUT,
        content=content_hash(pairs),
        seed=seed,
        pairs=len(pairs),
        positives=pairs.positives,
        train=len(split.train),
        validation=min(validation_pairs, len(split.validation)),
        validation_split=len(split.validation),
        test=len(split.test),
        source=source,
    )
    data = directory / "data"
    if (data / MANIFEST).is_file():
        _check_same(data / MANIFEST, manifest, directory)
    else:
        _write(split, manifest, directory)
    return manifest, split.notes


def prepared_directory(data: Path | None) -> Path:
    """Return where the pairs for trials lie: ``data``, which must be there.

    Raises:
        RuntimeError: There is no prepared data.
    """
    if data is None:
        raise RuntimeError("FineTune needs prepared data: call prepare() before any trial")
    return data


def _check_same(path: Path, wanted: Manifest, directory: Path) -> None:
    way_out = f"give the study another name (--study), or delete {directory} and the study"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged: it is not valid JSON; {way_out}") from None
    now = asdict(wanted)
    # Where the pairs came from may change its name or place; what counts is their content.
    for name, what in (
        ("layout", "layout"),
        ("content", "data"),
        ("seed", "seed"),
        ("validation", "number of validation pairs"),
    ):
        if found.get(name) != now[name]:
            before, after = (
                (f"{found.get('pairs', 0):,} pairs from {found.get('source')}", wanted.source)
                if name == "content"
                else (found.get(name), now[name])
            )
            raise DataError(
                f"this study was begun with another {what}: {directory} holds {before}, not "
                f"{after}; {way_out}"
            )


def _write(split: Split, manifest: Manifest, directory: Path) -> None:
    """Write everything beside its place first, so that what is in place is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory, prefix="data-", suffix=".partial"))
    try:
        seed = manifest.seed
        write_jsonl(nested_sample(split.train, manifest.train, seed), partial / "train.jsonl")
        validation = nested_sample(split.validation, manifest.validation, seed)
        write_jsonl(validation, partial / "validation.jsonl")
        text = json.dumps(asdict(manifest), indent=2)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        # The test split is no part of what travels to workers.
        write_jsonl(split.test, partial / "test.jsonl")
        os.replace(partial / "test.jsonl", directory / "test.jsonl")
        partial.chmod(0o755)
        shutil.rmtree(directory / "data", ignore_errors=True)  # without a manifest: a torn write
        os.replace(partial, directory / "data")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
