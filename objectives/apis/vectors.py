"""Vectors that were paid for, kept on disk for good: one SQLite file a model.

A vector is found by everything that it depends on, the text included, so that any study can use it.
Each batch is one transaction: whatever ends the process, what was answered before is there. Neither
texts nor keys are stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from objectives.apis.provider import ApiError

LAYOUT = 1
"""Version of the keys and of the table; another one finds nothing of this."""

BUSY_SECONDS = 30.0
"""How long to wait for another process that writes."""


def cache_directory() -> Path:
    """Return where vectors are kept: ``hpo/vectors`` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hpo" / "vectors"


class VectorCache:
    """The vectors of one model.

    Args:
        directory: Where the files lie; made when there is something to keep.
        provider: The provider's name.
        model: The model's name.
        variant: What else vectors depend on: dimensions, input type, another address of the API.
    """

    def __init__(self, directory: Path, provider: str, model: str, *variant: Any) -> None:
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"{provider}-{model}").strip("-.")
        # Two names may have one stem; their keys differ all the same.
        self.path = directory / f"{stem[:80]}.sqlite"
        self._identity = [LAYOUT, provider, model, *variant]

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that have no vector yet, in their order."""
        if not self.path.exists():
            return list(texts)
        with self._open() as database:
            question = "SELECT 1 FROM vectors WHERE key = ?"
            return [
                text
                for text in texts
                if database.execute(question, (self._key(text),)).fetchone() is None
            ]

    def store(self, texts: Sequence[str], vectors: np.ndarray, tokens: Sequence[float]) -> None:
        """Keep the vectors of ``texts`` and what each cost in tokens, all of them or none."""
        rows = [
            (self._key(text), vector.astype("<f4").tobytes(), count)
            for text, vector, count in zip(texts, vectors, tokens, strict=True)
        ]
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def load(self, texts: Sequence[str]) -> tuple[np.ndarray, float]:
        """Return the vectors of ``texts``, shape (texts, dimension), and the tokens they cost."""
        vectors, total = np.empty((len(texts), 0), np.float32), 0.0
        with self._open() as database:
            question = "SELECT vector, tokens FROM vectors WHERE key = ?"
            for row, text in enumerate(texts):
                content, tokens = database.execute(question, (self._key(text),)).fetchone()
                vector = np.frombuffer(content, "<f4")
                if row == 0:  # a list of them all would take their memory twice
                    vectors = np.empty((len(texts), vector.size), np.float32)
                vectors[row] = vector
                total += tokens
        return vectors, total

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(json.dumps([*self._identity, text]).encode()).digest()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction.

        Raises:
            ApiError: It is damaged, or cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, BUSY_SECONDS)) as database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS vectors "
                    "(key BLOB PRIMARY KEY, vector BLOB NOT NULL, tokens REAL NOT NULL)"
                )
                with database:
                    yield database
        except (sqlite3.Error, OSError) as error:
            raise ApiError(
                f"{self.path} keeps the vectors that were paid for, and cannot be used ({error}): "
                "see that it can be written and is not full, or delete it if it is damaged; "
                "XDG_CACHE_HOME names another place."
            ) from None
